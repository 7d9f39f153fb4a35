//! Which nodes hold a replica of each shard: rendezvous hashing with bounded load.
//!
//! Every shard gets `factor` replicas in every region (all nodes, where there are fewer). A node
//! is preferred for a shard by a hash of both (Thaler and Ravishankar, "Using Name-Based Mappings
//! to Increase Hit Rates", 1998), zones spread first, and passed over once it is full (Mirrokni,
//! Thorup and Zadimoghaddam, "Consistent Hashing with Bounded Loads", 2018). Their bound leaves
//! slack; ours is the tightest there is, so single moves from fullest to emptiest finish the work.
//!
//! Invariants:
//! 1. The answer depends on the arguments alone, not on the order in which nodes are listed.
//! 2. A shard's replicas in a region are distinct nodes, as many as `factor` allows.
//! 3. In a region the loads of two nodes differ by one at most: none holds more than the ceiling
//!    of the mean, none less than its floor.
//! 4. Two replicas share a zone only where no move within invariant 3 would part them.
//! 5. With the recorded placement as a start, a node that joins n others takes what invariant 3
//!    gives it, and nothing else moves but what invariant 4 asks for. Where zones ask for
//!    nothing, that is at most ceil(replicas / (n + 1)).
//!
//! Why 5: before, loads are floor or ceiling of replicas / n. Old nodes are never the emptiest
//! while the new one is two below the fullest, so each move goes to the new node, and the last
//! one leaves it at the new ceiling at most.
//!
//! Left out: weights of nodes. Load wins over zones: with nodes spread unevenly over zones, some
//! shards keep two replicas in a large zone, rather than overload a small one.

use std::collections::{BTreeMap, BTreeSet};

/// A node's id: from the hash of its public key.
pub type NodeId = [u8; 16];

/// A node that may hold replicas.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Node {
    /// Its id; unique.
    pub id: NodeId,
    /// Its region.
    pub region: String,
    /// Its failure domain in the region.
    pub zone: String,
}

/// How much is to be placed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Number of shards; slots are `0..shards`.
    pub shards: u16,
    /// Replicas of a shard in each region.
    pub factor: usize,
}

/// The replicas of every shard, by region.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Placement {
    regions: BTreeMap<String, Vec<BTreeSet<NodeId>>>,
}

impl Placement {
    /// What one region has recorded, by slot.
    pub fn of_region(region: &str, slots: Vec<BTreeSet<NodeId>>) -> Placement {
        Placement { regions: BTreeMap::from([(region.to_owned(), slots)]) }
    }

    /// The regions that hold replicas.
    pub fn regions(&self) -> impl Iterator<Item = &str> {
        self.regions.keys().map(String::as_str)
    }

    /// The replicas of a shard in a region, in order of ids; none if either is unknown.
    pub fn replicas(&self, region: &str, slot: u16) -> impl Iterator<Item = &NodeId> {
        self.regions
            .get(region)
            .and_then(|shards| shards.get(usize::from(slot)))
            .into_iter()
            .flatten()
    }

    /// How many replicas here are not in `other`: what must be copied to get from it to this.
    pub fn moved_from(&self, other: &Placement) -> usize {
        let new = |region: &str, slot: usize, id: &NodeId| {
            !other.regions.get(region).and_then(|s| s.get(slot)).is_some_and(|s| s.contains(id))
        };
        let count = |(region, shards): (&String, &Vec<BTreeSet<NodeId>>)| -> usize {
            let shards = shards.iter().enumerate();
            shards.map(|(slot, set)| set.iter().filter(|id| new(region, slot, id)).count()).sum()
        };
        self.regions.iter().map(count).sum()
    }
}

/// Proposes replicas for every shard in every region that has a node.
///
/// `recorded` is what holds now, or an empty placement: its replicas on nodes that are still
/// listed stay, as far as the invariants allow. Takes time of the order of moves x shards.
pub fn propose(nodes: &[Node], shape: Shape, recorded: &Placement) -> Placement {
    let mut regions: BTreeMap<&str, BTreeMap<NodeId, &str>> = BTreeMap::new();
    for node in nodes {
        regions.entry(&node.region).or_default().insert(node.id, &node.zone);
    }
    let nothing = Vec::new();
    let mut placement = Placement::default();
    for (region, zones) in regions {
        let mut plan = Plan::keep(zones, shape, recorded.regions.get(region).unwrap_or(&nothing));
        plan.fill();
        plan.balance();
        while plan.spread_once() {}
        placement.regions.insert(region.to_owned(), plan.shards);
    }
    placement
}

/// One region's placement while it is being made.
struct Plan<'a> {
    zones: BTreeMap<NodeId, &'a str>,
    shards: Vec<BTreeSet<NodeId>>,
    loads: BTreeMap<NodeId, usize>,
    factor: usize,
}

impl<'a> Plan<'a> {
    /// Starts from what is recorded, without nodes that are gone or beyond the factor.
    fn keep(
        zones: BTreeMap<NodeId, &'a str>,
        shape: Shape,
        recorded: &[BTreeSet<NodeId>],
    ) -> Plan<'a> {
        let factor = shape.factor.min(zones.len());
        let loads = zones.keys().map(|id| (*id, 0)).collect();
        let shards = vec![BTreeSet::new(); usize::from(shape.shards)];
        let mut plan = Plan { zones, shards, loads, factor };
        for (slot, set) in recorded.iter().enumerate().take(usize::from(shape.shards)) {
            let mut kept: Vec<_> = set.iter().filter(|id| plan.zones.contains_key(*id)).collect();
            kept.sort_by_key(|id| std::cmp::Reverse(score(slot, id)));
            for id in kept.into_iter().take(factor) {
                plan.put(slot, *id);
            }
        }
        plan
    }

    fn put(&mut self, slot: usize, id: NodeId) {
        self.shards[slot].insert(id);
        *self.loads.entry(id).or_default() += 1;
    }

    fn shift(&mut self, slot: usize, from: NodeId, to: NodeId) {
        self.shards[slot].remove(&from);
        *self.loads.entry(from).or_default() -= 1;
        self.put(slot, to);
    }

    /// How many replicas of a shard are in the zone of `id`.
    fn in_zone_of(&self, slot: usize, id: &NodeId) -> usize {
        self.shards[slot].iter().filter(|other| self.zones[*other] == self.zones[id]).count()
    }

    /// What a shift adds to the pairs of replicas that share a zone; negative is better.
    fn crowding(&self, slot: usize, from: &NodeId, to: &NodeId) -> isize {
        let joins = self.in_zone_of(slot, to) - usize::from(self.zones[from] == self.zones[to]);
        let leaves = self.in_zone_of(slot, from) - 1;
        joins as isize - leaves as isize
    }

    /// Completes every shard: emptiest zone first, then the highest score, full nodes last.
    fn fill(&mut self) {
        let ceiling = (self.shards.len() * self.factor).div_ceil(self.zones.len().max(1));
        for slot in 0..self.shards.len() {
            while self.shards[slot].len() < self.factor {
                let absent = self.zones.keys().filter(|id| !self.shards[slot].contains(*id));
                let best = absent.min_by_key(|id| {
                    let full = self.loads[*id] >= ceiling;
                    (full, self.in_zone_of(slot, id), std::cmp::Reverse(score(slot, id)))
                });
                let Some(id) = best.copied() else { return };
                self.put(slot, id);
            }
        }
    }

    /// Moves one replica at a time from a fullest node to an emptiest, until they differ by one.
    ///
    /// A fuller node holds some shard that the emptier does not, so there is always a move; each
    /// lowers the sum of squared loads, so there is an end.
    fn balance(&mut self) {
        loop {
            let most = self.loads.values().max().copied().unwrap_or(0);
            let least = self.loads.values().min().copied().unwrap_or(0);
            if most - least < 2 {
                return;
            }
            let with =
                |load| self.loads.iter().filter(move |(_, l)| **l == load).map(|(id, _)| *id);
            let pairs = with(most).flat_map(|from| with(least).map(move |to| (from, to)));
            let moves = pairs.flat_map(|(from, to)| self.moves(from, to));
            let best = moves.min_by_key(|(slot, from, to)| {
                (self.crowding(*slot, from, to), std::cmp::Reverse(score(*slot, to)), *slot, *from)
            });
            let Some((slot, from, to)) = best else { return };
            self.shift(slot, from, to);
        }
    }

    /// The shards that could move from one node to another.
    fn moves(&self, from: NodeId, to: NodeId) -> impl Iterator<Item = (usize, NodeId, NodeId)> {
        let can = move |set: &BTreeSet<NodeId>| set.contains(&from) && !set.contains(&to);
        let slots = self.shards.iter().enumerate().filter(move |(_, set)| can(set));
        slots.map(move |(slot, _)| (slot, from, to))
    }

    /// Parts two replicas that share a zone, by a move or an exchange that keeps the balance.
    ///
    /// Each lowers the number of pairs that share a zone, so repeating it ends.
    fn spread_once(&mut self) -> bool {
        let least = self.loads.values().min().copied().unwrap_or(0);
        for slot in 0..self.shards.len() {
            let crowded = self.shards[slot].iter().filter(|id| self.in_zone_of(slot, id) > 1);
            for from in crowded.copied().collect::<Vec<_>>() {
                let gain = |to: &NodeId| self.crowding(slot, &from, to);
                let mut targets: Vec<NodeId> = self
                    .zones
                    .keys()
                    .filter(|id| !self.shards[slot].contains(*id))
                    .copied()
                    .collect();
                targets.retain(|to| gain(to) < 0);
                targets.sort_by_key(|to| (gain(to), std::cmp::Reverse(score(slot, to))));
                for to in targets {
                    if self.loads[&from] > least && self.loads[&to] == least {
                        self.shift(slot, from, to);
                        return true;
                    }
                    let limit = -gain(&to);
                    let back = self.moves(to, from).find(|(other, ..)| {
                        *other != slot && self.crowding(*other, &to, &from) < limit
                    });
                    if let Some((other, ..)) = back {
                        self.shift(slot, from, to);
                        self.shift(other, to, from);
                        return true;
                    }
                }
            }
        }
        false
    }
}

/// How much a node is wanted for a shard.
fn score(slot: usize, id: &NodeId) -> u64 {
    let mut hasher = blake3::Hasher::new_derive_key("atoll placement 1");
    hasher.update(&(slot as u64).to_be_bytes()).update(id);
    let mut head = [0; 8];
    hasher.finalize_xof().fill(&mut head);
    u64::from_be_bytes(head)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn node(seed: u64, region: &str, zone: usize) -> Node {
        let mut id = [0; 16];
        id.copy_from_slice(&blake3::hash(&seed.to_be_bytes()).as_bytes()[..16]);
        Node { id, region: region.into(), zone: format!("zone-{zone}") }
    }

    fn one_region(count: usize, zones: usize, seed: u64) -> Vec<Node> {
        (0..count).map(|k| node(seed * 1000 + k as u64, "eu", k % zones)).collect()
    }

    fn loads(placement: &Placement, nodes: &[Node], shape: Shape) -> Vec<usize> {
        let load = |n: &Node| {
            let holds = |slot: &u16| placement.replicas(&n.region, *slot).any(|id| *id == n.id);
            (0..shape.shards).filter(holds).count()
        };
        nodes.iter().map(load).collect()
    }

    /// Pairs of replicas of one shard that share a zone.
    fn shared_zones(placement: &Placement, nodes: &[Node], shape: Shape) -> usize {
        let zone = |id: &NodeId| &nodes.iter().find(|n| n.id == *id).unwrap().zone;
        let pairs = |slot: u16| -> usize {
            let zones: Vec<_> = placement.replicas("eu", slot).map(zone).collect();
            let distinct: BTreeSet<_> = zones.iter().collect();
            zones.len() - distinct.len()
        };
        (0..shape.shards).map(pairs).sum()
    }

    fn check(nodes: &[Node], shape: Shape, recorded: &Placement) -> Placement {
        let placement = propose(nodes, shape, recorded);
        let factor = shape.factor.min(nodes.len());
        for slot in 0..shape.shards {
            assert_eq!(placement.replicas("eu", slot).count(), factor, "slot {slot}");
        }
        let loads = loads(&placement, nodes, shape);
        let mean = usize::from(shape.shards) * factor;
        assert!(loads.iter().all(|l| *l <= mean.div_ceil(nodes.len())), "{loads:?}");
        assert!(loads.iter().all(|l| *l >= mean / nodes.len()), "{loads:?}");
        placement
    }

    #[test]
    fn a_region_of_few_nodes_holds_everything_everywhere() {
        let shape = Shape { shards: 64, factor: 3 };
        let nodes = [node(1, "eu", 0), node(2, "us", 0), node(3, "us", 0)];
        let placement = propose(&nodes, shape, &Placement::default());
        assert_eq!(placement.regions().collect::<Vec<_>>(), ["eu", "us"]);
        for slot in 0..64 {
            assert_eq!(placement.replicas("eu", slot).collect::<Vec<_>>(), [&nodes[0].id]);
            assert_eq!(placement.replicas("us", slot).count(), 2);
        }
        assert_eq!(placement.replicas("ap", 0).count(), 0);
        assert_eq!(placement.replicas("eu", 64).count(), 0);
    }

    #[test]
    fn nothing_to_place_on_is_no_error() {
        let shape = Shape { shards: 4, factor: 3 };
        assert_eq!(propose(&[], shape, &Placement::default()), Placement::default());
    }

    #[test]
    fn a_node_that_leaves_is_replaced_and_little_else_moves() {
        let shape = Shape { shards: 64, factor: 3 };
        let nodes = one_region(6, 3, 7);
        let before = check(&nodes, shape, &Placement::default());
        let after = check(&nodes[1..], shape, &before);
        let lost = loads(&before, &nodes, shape)[0];
        let moved = after.moved_from(&before);
        assert!(moved >= lost && moved <= lost + lost / 2, "{moved} moved, {lost} lost");
    }

    #[test]
    fn a_third_zone_is_used_at_once() {
        let shape = Shape { shards: 64, factor: 3 };
        let mut nodes = one_region(4, 2, 3);
        let before = check(&nodes, shape, &Placement::default());
        nodes.extend([node(90, "eu", 2), node(91, "eu", 2)]);
        let after = check(&nodes, shape, &before);
        assert_eq!(shared_zones(&after, &nodes, shape), 0);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn loads_are_level_and_order_does_not_matter(
            count in 1usize..12, zones in 1usize..5, factor in 1usize..5,
            shards in 1u16..96, seed in 0u64..1000,
        ) {
            let shape = Shape { shards, factor };
            let mut nodes = one_region(count, zones, seed);
            let placement = check(&nodes, shape, &Placement::default());
            nodes.reverse();
            prop_assert_eq!(&placement, &propose(&nodes, shape, &Placement::default()));
            prop_assert_eq!(&placement, &propose(&nodes, shape, &placement));
        }

        #[test]
        fn equal_zones_never_share_a_shard(
            each in 1usize..5, zones in 1usize..5, shards in 1u16..96, seed in 0u64..1000,
        ) {
            let shape = Shape { shards, factor: zones };
            let nodes = one_region(each * zones, zones, seed);
            let placement = check(&nodes, shape, &Placement::default());
            prop_assert_eq!(shared_zones(&placement, &nodes, shape), 0);
        }

        #[test]
        fn a_joining_node_takes_its_share_and_no_more(
            count in 1usize..12, factor in 1usize..4, seed in 0u64..1000,
        ) {
            let shape = Shape { shards: 64, factor };
            prop_assume!(count >= factor);
            let nodes = one_region(count + 1, 1, seed);
            let before = check(&nodes[..count], shape, &Placement::default());
            let after = check(&nodes, shape, &before);
            let moved = after.moved_from(&before);
            prop_assert!(moved <= (64 * factor).div_ceil(count + 1), "{} moved", moved);
            prop_assert_eq!(moved, loads(&after, &nodes, shape)[count]);
        }

        #[test]
        fn zones_cost_at_most_as_much_again(count in 3usize..12, seed in 0u64..1000) {
            let shape = Shape { shards: 64, factor: 3 };
            let nodes = one_region(count + 1, 3, seed);
            let before = check(&nodes[..count], shape, &Placement::default());
            let after = check(&nodes, shape, &before);
            let moved = after.moved_from(&before);
            prop_assert!(moved <= 2 * 192usize.div_ceil(count + 1), "{} moved", moved);
        }
    }
}
