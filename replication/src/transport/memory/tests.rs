//! The network in memory: order, faults, cuts, and that a seed decides everything.

use super::*;

const A: NodeId = NodeId([1; 16]);
const B: NodeId = NodeId([2; 16]);
const C: NodeId = NodeId([3; 16]);

fn frame(number: u64) -> Bytes {
    Bytes::copy_from_slice(&number.to_le_bytes())
}

/// Runs until nothing is left, or `until`; each arrival with its time.
fn run(network: &mut Network, until: u64) -> Vec<(u64, NodeId, Arrival)> {
    let mut trace = Vec::new();
    while let Some(at) = network.next_at().filter(|at| *at <= until) {
        trace.extend(network.deliver(at).into_iter().map(|(to, arrival)| (at, to, arrival)));
    }
    trace
}

fn joined(seed: u64, nodes: &[NodeId]) -> Network {
    let mut network = Network::new(seed);
    for node in nodes {
        network.join(0, *node);
    }
    let trace = run(&mut network, 1000);
    assert_eq!(trace.len(), nodes.len() * (nodes.len() - 1));
    network
}

fn numbers(trace: &[(u64, NodeId, Arrival)], to: NodeId) -> Vec<u64> {
    let number = |(_, receiver, arrival): &(u64, NodeId, Arrival)| match arrival {
        Arrival::Received { frame, .. } if *receiver == to => {
            Some(u64::from_le_bytes(frame.as_ref().try_into().unwrap()))
        }
        _ => None,
    };
    trace.iter().filter_map(number).collect()
}

fn send_many(network: &mut Network, from: NodeId, to: NodeId, count: u64) {
    for number in 0..count {
        assert!(network.send(1000 + number, from, to, Class::Operations, frame(number)));
    }
}

fn disconnected(trace: &[(u64, NodeId, Arrival)]) -> Vec<(NodeId, NodeId)> {
    let lost = |(_, node, arrival): &(u64, NodeId, Arrival)| match arrival {
        Arrival::Disconnected { peer } => Some((*node, *peer)),
        _ => None,
    };
    let mut all: Vec<_> = trace.iter().filter_map(lost).collect();
    all.sort();
    all
}

#[test]
fn a_good_link_keeps_order_whatever_its_delay() {
    let mut network = joined(1, &[A, B]);
    network.set_link(A, B, Link { delay_min_ms: 1, delay_max_ms: 200, ..Link::default() });
    send_many(&mut network, A, B, 100);
    assert_eq!(numbers(&run(&mut network, 5000), B), (0..100).collect::<Vec<_>>());
}

#[test]
fn faults_happen_as_often_as_asked() {
    let count = |link: Link| {
        let mut network = joined(2, &[A, B]);
        network.set_default_link(link);
        send_many(&mut network, A, B, 1000);
        numbers(&run(&mut network, 9000), B)
    };
    let lossy = count(Link { loss: 0.3, ..Link::default() });
    assert!((600..800).contains(&lossy.len()), "{}", lossy.len());
    let doubled = count(Link { duplication: 0.3, ..Link::default() });
    assert!((1200..1400).contains(&doubled.len()), "{}", doubled.len());
    let reordered = count(Link { delay_max_ms: 20, reordering: 0.3, ..Link::default() });
    assert!(reordered.len() == 1000 && !reordered.is_sorted());
}

#[test]
fn a_cut_is_noticed_and_heals() {
    let mut network = joined(3, &[A, B, C]);
    network.partition(1000, &[A], &[B, C]);
    assert!(network.send(1000, A, B, Class::Control, frame(0)), "nobody has noticed yet");
    let trace = run(&mut network, 8000);
    assert_eq!(disconnected(&trace), [(A, B), (A, C), (B, A), (C, A)]);
    assert!(trace.iter().all(|(at, ..)| (5000..=7000).contains(at)));
    assert!(!network.send(8000, A, B, Class::Control, frame(1)));
    assert!(network.send(8000, B, C, Class::Control, frame(2)));

    network.heal_all(8000);
    let trace = run(&mut network, 20_000);
    assert_eq!(numbers(&trace, C), [2]);
    assert!(network.send(20_000, A, B, Class::Control, frame(3)));
    assert_eq!(numbers(&run(&mut network, 21_000), B), [3]);
}

#[test]
fn a_short_cut_loses_frames_only() {
    let mut network = joined(4, &[A, B]);
    network.cut(1000, A, B);
    assert!(network.send(1001, A, B, Class::Control, frame(0)));
    assert!(network.send(1001, B, A, Class::Control, frame(1)), "one way only");
    network.heal(2000, A, B);
    assert!(network.send(2001, A, B, Class::Control, frame(2)));
    let trace = run(&mut network, 20_000);
    assert_eq!((numbers(&trace, A), numbers(&trace, B)), (vec![1], vec![2]));
    assert_eq!(disconnected(&trace), []);
}

#[test]
fn a_crash_is_noticed_and_a_restart_connects_anew() {
    let mut network = joined(5, &[A, B]);
    assert!(network.send(1000, A, B, Class::Bulk, frame(0)));
    network.leave(1000, B);
    assert_eq!(numbers(&run(&mut network, 2000), B), []);
    network.join(2000, B);
    let trace = run(&mut network, 20_000);
    assert_eq!(disconnected(&trace), [(A, B)], "the restart is noticed before the crash is");
    assert_eq!(trace.len(), 3);
}

#[test]
fn a_rejected_peer_connects_again() {
    let mut network = joined(6, &[A, B]);
    network.reject(1000, A, B);
    let trace = run(&mut network, 20_000);
    assert_eq!(disconnected(&trace), [(A, B), (B, A)]);
    assert_eq!(trace.len(), 4);
}

fn chaos(seed: u64) -> Vec<(u64, NodeId, Arrival)> {
    chaos_with(seed, false)
}

/// Sends, cuts, crashes and heals as a function of the seed.
fn chaos_with(seed: u64, datagrams: bool) -> Vec<(u64, NodeId, Arrival)> {
    let mut network = Network::new(seed);
    let mut chance = Random::new(seed ^ 0xc0ff_ee00);
    network.set_default_link(Link {
        delay_min_ms: 1,
        delay_max_ms: 80,
        loss: 0.05,
        duplication: 0.05,
        reordering: 0.05,
    });
    let nodes = [A, B, C];
    let mut trace = Vec::new();
    for now in 0..20_000 {
        let node = nodes[chance.between(0, 2) as usize];
        let peer = nodes[chance.between(0, 2) as usize];
        match chance.between(0, 2000) {
            0 => network.join(now, node),
            1 => network.leave(now, node),
            2 => network.cut(now, node, peer),
            3 => network.heal_all(now),
            4 => network.reject(now, node, peer),
            n if datagrams && n % 2 == 0 => drop(network.datagram(now, node, peer, frame(now))),
            _ => drop(network.send(now, node, peer, Class::Operations, frame(now))),
        }
        if now == 0 {
            nodes.iter().for_each(|node| network.join(now, *node));
        }
        trace.extend(network.deliver(now).into_iter().map(|(to, arrival)| (now, to, arrival)));
    }
    trace
}

#[test]
fn the_seed_decides_everything() {
    let trace = chaos(7);
    assert!(trace.len() > 1000);
    assert_eq!(trace, chaos(7));
    assert_ne!(trace, chaos(8));
    let trace = chaos_with(7, true);
    let datagrams = trace.iter().filter(|(.., a)| matches!(a, Arrival::Datagram { .. })).count();
    assert!(datagrams > 500, "{datagrams}");
    assert_eq!(trace, chaos_with(7, true));
}

#[test]
fn a_seed_of_before_gives_the_trace_of_before() {
    let text = format!("{:?}", chaos(7));
    assert_eq!(blake3::hash(text.as_bytes()).to_hex()[..16], *"111bff93bc583e0a");
}

#[test]
fn datagrams_pass_frames_and_each_other() {
    let mut network = joined(9, &[A, B]);
    network.set_default_link(Link { delay_min_ms: 1, delay_max_ms: 200, ..Link::default() });
    for number in 0..100 {
        assert!(network.datagram(1000 + number, A, B, frame(number)));
    }
    let arrived: Vec<u64> = run(&mut network, 5000)
        .into_iter()
        .map(|(_, to, arrival)| match arrival {
            Arrival::Datagram { peer: A, bytes } if to == B => {
                u64::from_le_bytes(bytes.as_ref().try_into().unwrap())
            }
            arrival => panic!("{arrival:?}"),
        })
        .collect();
    assert!(arrived.len() == 100 && !arrived.is_sorted());
    assert_eq!(network.received(B, A), Some(100));
    assert_eq!(network.received(A, B), Some(0));
}

#[test]
fn datagrams_are_short_and_need_a_connection() {
    let mut network = joined(10, &[A, B]);
    assert!(network.datagram(1000, A, B, Bytes::from(vec![0; DATAGRAM_BYTES])));
    assert!(!network.datagram(1000, A, B, Bytes::from(vec![0; DATAGRAM_BYTES + 1])));
    assert!(!network.datagram(1000, A, C, Bytes::new()));
    assert_eq!(network.received(A, C), None);
    assert_eq!(run(&mut network, 5000).len(), 1);
    network.reject(5000, A, B);
    run(&mut network, 20_000);
    assert_eq!(network.received(B, A), Some(0), "a new connection");
}

#[test]
fn arrivals_of_a_pair_are_well_formed() {
    for seed in 0..20 {
        let mut connected = BTreeSet::new();
        for (at, node, arrival) in chaos_with(seed, seed % 2 == 0) {
            let right = match arrival {
                // A restarted node forgets: for it a second `Connected` is the first.
                Arrival::Connected { peer, .. } => {
                    connected.insert((node, peer));
                    true
                }
                Arrival::Disconnected { peer } => connected.remove(&(node, peer)),
                Arrival::Received { peer, .. } | Arrival::Datagram { peer, .. } => {
                    connected.contains(&(node, peer))
                }
            };
            assert!(right, "seed {seed}, at {at}, {node}");
        }
    }
}

#[test]
fn only_those_connect_of_whom_one_dials() {
    let mut network = Network::dialled(3);
    // Before the other is there, too.
    network.join(0, A);
    network.dial(0, A, B);
    network.join(5, B);
    network.join(5, C);
    let trace = run(&mut network, 2_000);
    assert_eq!(trace.len(), 2);
    assert!(network.is_connected(A, B) && !network.is_connected(A, C));
    // Forgotten, a connection stays; closed, it is not made again.
    network.forget(A, B);
    assert!(run(&mut network, 9_000).is_empty() && network.is_connected(B, A));
    network.close(9_000, B, A);
    assert_eq!(disconnected(&run(&mut network, 19_000)), [(A, B), (B, A)]);
    assert!(!network.is_connected(A, B));
    // Closed while one dials, it is.
    network.dial(20_000, C, B);
    assert_eq!(run(&mut network, 29_000).len(), 2);
    network.close(30_000, B, C);
    assert_eq!(run(&mut network, 39_000).len(), 4);
    // Who starts again has yet to dial.
    network.join(40_000, C);
    run(&mut network, 60_000);
    assert!(!network.is_connected(B, C));
}
