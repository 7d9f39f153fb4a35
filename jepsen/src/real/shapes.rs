//! Shapes of partitions: which ordered pairs of nodes hear nothing. Pure.
//!
//! Invariant: nodes are named by their places in the run's list; a pair is (speaker, hearer).

use std::collections::BTreeSet;

use crate::random::Random;

/// Ordered pairs of nodes.
pub(crate) type Pairs = BTreeSet<(usize, usize)>;

/// All ordered pairs.
pub(crate) fn all(nodes: usize) -> Pairs {
    let pairs = (0..nodes).flat_map(|a| (0..nodes).map(move |b| (a, b)));
    pairs.filter(|(a, b)| a != b).collect()
}

/// The pairs between a side and the rest, both ways.
pub(crate) fn between(side: &BTreeSet<usize>, nodes: usize) -> Pairs {
    all(nodes).into_iter().filter(|(a, b)| side.contains(a) != side.contains(b)).collect()
}

/// The pairs from a side to the rest.
pub(crate) fn out_of(side: &BTreeSet<usize>, nodes: usize) -> Pairs {
    all(nodes).into_iter().filter(|(a, b)| side.contains(a) && !side.contains(b)).collect()
}

/// Half of the nodes, rounded down; one at least, if there are two.
pub(crate) fn half(nodes: usize, random: &mut Random) -> BTreeSet<usize> {
    let mut places: Vec<usize> = (0..nodes).collect();
    random.shuffle(&mut places);
    places.into_iter().take(nodes / 2).collect()
}

/// What remains cut when each node hears a majority of its own: its neighbours on a circle.
///
/// Three nodes on a circle are all neighbours: one pair of them is cut.
pub(crate) fn ring(nodes: usize, random: &mut Random) -> Pairs {
    let mut circle: Vec<usize> = (0..nodes).collect();
    random.shuffle(&mut circle);
    // A majority is itself and this many on each side.
    let reach = if nodes <= 3 { 1 } else { (nodes / 2).div_ceil(2) };
    let far = |a: usize, b: usize| {
        let steps = a.abs_diff(b);
        match nodes {
            0..=3 => steps == nodes - 1,
            _ => steps.min(nodes - steps) > reach,
        }
    };
    let places = all(nodes).into_iter().filter(|(a, b)| far(*a, *b));
    places.map(|(a, b)| (circle[a], circle[b])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_side_and_the_rest_are_apart() {
        let side = BTreeSet::from([0, 2]);
        let cut = between(&side, 3);
        assert_eq!(cut, Pairs::from([(0, 1), (1, 0), (2, 1), (1, 2)]));
        assert_eq!(out_of(&side, 3), Pairs::from([(0, 1), (2, 1)]));
        let sizes: Vec<usize> = (2..8).map(|n| half(n, &mut Random::new(1)).len()).collect();
        assert_eq!(sizes, [1, 1, 2, 2, 3, 3]);
    }

    #[test]
    fn in_a_ring_all_hear_majorities_and_no_two_the_same() {
        for (nodes, seed) in (4..12).flat_map(|n| (0..5).map(move |seed| (n, seed))) {
            let cut = ring(nodes, &mut Random::new(seed));
            let heard = |a: usize| -> BTreeSet<usize> {
                (0..nodes).filter(|b| !cut.contains(&(a, *b))).collect()
            };
            let views: BTreeSet<BTreeSet<usize>> = (0..nodes).map(heard).collect();
            assert!(views.iter().all(|view| view.len() > nodes / 2), "{nodes}: {views:?}");
            assert_eq!(views.len(), nodes, "{nodes}: {views:?}");
            assert!(cut.iter().all(|(a, b)| cut.contains(&(*b, *a))), "{nodes}: one way");
        }
        assert_eq!(ring(3, &mut Random::new(1)).len(), 2);
        assert_eq!(ring(2, &mut Random::new(1)).len(), 2);
    }
}
