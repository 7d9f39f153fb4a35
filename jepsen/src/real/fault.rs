//! The kinds of faults, by name, and what each needs of the machine.
//!
//! Invariant: a kind that cannot be made here is refused before the run, never skipped.

use anyhow::{Result, bail, ensure};

/// A kind of fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs, reason = "their names are explained in TABLE")]
pub enum Fault {
    PartitionHalves,
    PartitionRegion,
    PartitionRing,
    OneWay,
    Flap,
    Slow,
    Kill,
    KillAll,
    Pause,
    Clock,
    Restore,
    Corrupt,
    Truncate,
    Replace,
    Power,
    FullDisk,
    Join,
    Leave,
    ReplaceNode,
    Rolling,
}

/// Stands for every kind of partition.
const PARTITIONS: &str = "partitions";
/// Stands for every change of who is there.
const MEMBERSHIP: &str = "membership";
/// Nodes of a region of which one at a time may be missing.
const MEMBERS_MIN: usize = 3;

type Row = (Fault, &'static str, &'static str, (u64, u64), &'static str);

/// Each kind: its name, the function of its lines, its shortest and longest length in
/// milliseconds, and what it does.
const TABLE: &[Row] = &[
    (Fault::PartitionHalves, "partition-halves", "partition", (4_000, 9_000), "two halves"),
    (Fault::PartitionRegion, "partition-region", "partition", (4_000, 9_000), "one region cut off"),
    (Fault::PartitionRing, "partition-ring", "partition", (4_000, 9_000), "a majority for each"),
    (Fault::OneWay, "one-way", "one-way", (4_000, 9_000), "one side is heard, and hears nothing"),
    (Fault::Flap, "flap", "flap", (4_000, 9_000), "a cut that comes and goes"),
    (Fault::Slow, "slow", "slow-link", (6_000, 12_000), "100 ms, 5 % lost, 5 % twice"),
    (Fault::Kill, "kill", "kill", (300, 4_000), "kill -9 of one node, restart"),
    (Fault::KillAll, "kill-all", "kill", (300, 2_000), "kill -9 of all nodes at once, restart"),
    (Fault::Pause, "pause", "pause", (10_000, 10_000), "SIGSTOP, SIGCONT"),
    (Fault::Clock, "clock", "clock", (2_000, 6_000), "a clock jumps, and jumps back"),
    (Fault::Restore, "restore", "restore", (2_000, 5_000), "a disk put back to an older copy"),
    (Fault::Corrupt, "corrupt", "corrupt", (500, 2_000), "flipped bits on a stopped node's disk"),
    (Fault::Truncate, "truncate", "truncate", (500, 2_000), "a stopped node's file cut short"),
    (Fault::Replace, "replace", "replace", (500, 2_000), "an empty disk"),
    (Fault::Power, "power", "power", (300, 2_000), "one disk or all lose what was not flushed"),
    (Fault::FullDisk, "full-disk", "full-disk", (4_000, 8_000), "a disk without room"),
    (Fault::Join, "join", "join", (500, 2_000), "a new node joins a region"),
    (Fault::Leave, "leave", "leave", (500, 2_000), "a node hands off, and leaves for good"),
    (
        Fault::ReplaceNode,
        "replace-node",
        "replace-node",
        (500, 2_000),
        "a disk is gone, a new node",
    ),
    (Fault::Rolling, "rolling", "rolling", (500, 2_000), "every node in turn stops and starts"),
];

impl Fault {
    /// Every kind of fault that leaves it as it is who is there.
    pub const ALL: &[Fault] = &[
        Fault::PartitionHalves,
        Fault::PartitionRegion,
        Fault::PartitionRing,
        Fault::OneWay,
        Fault::Flap,
        Fault::Slow,
        Fault::Kill,
        Fault::KillAll,
        Fault::Pause,
        Fault::Clock,
        Fault::Restore,
        Fault::Corrupt,
        Fault::Truncate,
        Fault::Replace,
        Fault::Power,
        Fault::FullDisk,
    ];

    /// The kinds that keep nodes from hearing each other.
    const PARTITIONS: &[Fault] = &[
        Fault::PartitionHalves,
        Fault::PartitionRegion,
        Fault::PartitionRing,
        Fault::OneWay,
        Fault::Flap,
    ];

    /// The kinds that change who is there, while replicas move.
    pub const MEMBERSHIP: &[Fault] = &[Fault::Join, Fault::Leave, Fault::ReplaceNode];

    /// The kinds that a list names: names by commas, `none`, `partitions` and `membership` for
    /// every kind of them, or `all` others that this machine allows.
    pub fn parse_list(list: &str, machine: &Machine) -> Result<Vec<Fault>> {
        let mut faults = Vec::new();
        for name in list.split(',').map(str::trim) {
            match name {
                "none" => {}
                PARTITIONS => faults.extend(Fault::PARTITIONS),
                MEMBERSHIP => {
                    Fault::Join.needs(machine)?;
                    faults.extend(Fault::MEMBERSHIP);
                }
                "all" => {
                    faults.extend(Fault::ALL.iter().filter(|fault| fault.needs(machine).is_ok()));
                }
                name => {
                    let Some(row) = TABLE.iter().find(|row| row.1 == name) else {
                        bail!(
                            "no nemesis {name:?}; there are none, all, partitions, membership, {}",
                            Fault::names()
                        );
                    };
                    row.0.needs(machine)?;
                    faults.push(row.0);
                }
            }
        }
        faults.sort();
        faults.dedup();
        let changes = faults.iter().filter(|fault| fault.roams()).count();
        ensure!(
            changes == 0 || changes == faults.len(),
            "join, leave, replace-node and rolling go with each other only: they wait until \
             replicas are where they belong"
        );
        Ok(faults)
    }

    /// A list in short: as [`Fault::parse_list`] reads it where nothing is missing.
    pub(crate) fn summary(names: &[String]) -> String {
        let has = |fault: &Fault| names.iter().any(|name| name == fault.name());
        if names.is_empty() {
            return "none".into();
        }
        if Fault::ALL.iter().all(has) {
            return "all".into();
        }
        if names.len() == Fault::MEMBERSHIP.len() && Fault::MEMBERSHIP.iter().all(has) {
            return MEMBERSHIP.into();
        }
        let folds = Fault::PARTITIONS.iter().all(has);
        let is_partition =
            |name: &String| Fault::PARTITIONS.iter().any(|fault| fault.name() == name);
        let others = names.iter().filter(|name| !(folds && is_partition(name)));
        let folded = folds.then_some(PARTITIONS).into_iter();
        folded.chain(others.map(String::as_str)).collect::<Vec<_>>().join(", ")
    }

    /// Names of all that a list names, whether this machine allows them or not; names that stand
    /// for nothing stay.
    pub(crate) fn expand(list: &str) -> Vec<String> {
        let names = |faults: &[Fault]| faults.iter().map(|f| f.name().to_owned()).collect();
        let one = |name: &str| -> Vec<String> {
            match name {
                "none" => Vec::new(),
                "all" => names(Fault::ALL),
                PARTITIONS => names(Fault::PARTITIONS),
                MEMBERSHIP => names(Fault::MEMBERSHIP),
                name => vec![name.to_owned()],
            }
        };
        list.split(',').map(str::trim).flat_map(one).collect()
    }

    /// Its name on the command line.
    pub fn name(self) -> &'static str {
        self.row().1
    }

    /// The function of its lines in a history.
    pub fn function(self) -> &'static str {
        self.row().2
    }

    /// Its shortest and longest length, milliseconds.
    pub(crate) fn lengths_ms(self) -> (u64, u64) {
        self.row().3
    }

    /// Whether it needs disks of the run's own.
    pub(crate) fn mounts(self) -> bool {
        matches!(self, Fault::Power | Fault::FullDisk)
    }

    /// Whether it changes who is there.
    pub(crate) fn changes_members(self) -> bool {
        Fault::MEMBERSHIP.contains(&self)
    }

    /// Whether a client that finds a node missing is to go on at another one.
    pub(crate) fn roams(self) -> bool {
        self.changes_members() || self == Fault::Rolling
    }

    /// Whether a client that goes on elsewhere is to do so under one of these, by name.
    pub(crate) fn any_roams(names: &[String]) -> bool {
        let row = |name: &String| TABLE.iter().find(|row| row.1 == *name);
        names.iter().filter_map(row).any(|row| row.0.roams())
    }

    /// Names and what they mean, a line each.
    pub fn help() -> String {
        let lines: String = TABLE.iter().map(|row| format!("{:18}{}\n", row.1, row.4)).collect();
        format!(
            "{lines}{PARTITIONS:18}all five kinds of partitions\n\
             {MEMBERSHIP:18}join, leave and replace-node\n"
        )
    }

    fn names() -> String {
        TABLE.iter().map(|row| row.1).collect::<Vec<_>>().join(", ")
    }

    fn row(self) -> &'static (Fault, &'static str, &'static str, (u64, u64), &'static str) {
        TABLE.iter().find(|row| row.0 == self).expect("a row for each kind")
    }

    /// Why it cannot be made here, and what to do.
    fn needs(self, machine: &Machine) -> Result<()> {
        let name = self.name();
        ensure!(
            !self.mounts() || machine.mounts,
            "{name} mounts a disk of its own, which needs root, mkfs.ext4 and loop devices: run \
             as root, or leave {name} out"
        );
        let apart = name.starts_with("partition") || matches!(self, Fault::OneWay | Fault::Flap);
        ensure!(!apart || machine.nodes > 1, "{name} needs two nodes: give more by --nodes");
        ensure!(
            self != Fault::PartitionRegion || machine.regions > 1,
            "{name} needs two regions: give more by --regions"
        );
        ensure!(
            !self.roams() || machine.nodes >= machine.regions * MEMBERS_MIN,
            "{name} needs {MEMBERS_MIN} nodes in each region, one of which may be missing: give \
             more by --nodes, or less by --regions"
        );
        let loses = [Fault::Restore, Fault::Corrupt, Fault::Truncate, Fault::Replace];
        ensure!(
            !loses.contains(&self) || machine.nodes > 1,
            "{name} needs another node that has the data: give more by --nodes"
        );
        Ok(())
    }
}

/// What decides which faults can be made.
#[derive(Clone, Copy, Debug)]
pub struct Machine {
    /// Disks can be mounted.
    pub mounts: bool,
    /// Nodes of the run.
    pub nodes: usize,
    /// Regions of the run.
    pub regions: usize,
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: Machine = Machine { mounts: false, nodes: 5, regions: 3 };

    #[test]
    fn every_kind_has_a_name_of_its_own() {
        let names: Vec<&str> = Fault::ALL.iter().map(|fault| fault.name()).collect();
        let mut unique = names.clone();
        unique.sort_unstable();
        unique.dedup();
        assert_eq!(unique.len(), names.len());
        assert_eq!(TABLE.len(), names.len() + Fault::MEMBERSHIP.len() + 1);
    }

    #[test]
    fn lists_are_read_and_what_cannot_be_is_refused() {
        let list = |list: &str| Fault::parse_list(list, &PLAIN);
        assert_eq!(list("none").unwrap(), []);
        assert_eq!(list("kill, partition-ring,kill").unwrap(), [Fault::PartitionRing, Fault::Kill]);
        assert_eq!(list("all").unwrap().len(), Fault::ALL.len() - 2);
        let refused = |text: &str| list(text).unwrap_err().to_string();
        assert!(refused("power").contains("run as root"), "{}", refused("power"));
        assert!(refused("kil").contains("there are none, all, partitions, membership, partition"));
        assert_eq!(list("partitions,flap").unwrap(), Fault::PARTITIONS);
        let whole = Machine { nodes: 9, ..PLAIN };
        assert_eq!(Fault::parse_list("membership", &whole).unwrap(), Fault::MEMBERSHIP);
        assert!(refused("membership").contains("3 nodes in each region"));
        let mixed = Fault::parse_list("join,kill", &whole).unwrap_err().to_string();
        assert!(mixed.contains("with each other only"), "{mixed}");
        let one = Machine { nodes: 1, regions: 1, ..PLAIN };
        assert!(Fault::parse_list("replace", &one).is_err());
        assert!(Fault::parse_list("partition-region", &Machine { regions: 1, ..PLAIN }).is_err());
    }

    #[test]
    fn a_summary_is_read_as_what_it_stands_for() {
        let rooted = Machine { mounts: true, nodes: 9, regions: 3 };
        for list in [
            "membership",
            "join, rolling",
            "none",
            "all",
            "partitions",
            "kill, power",
            "partitions, kill-all",
        ] {
            let faults = Fault::parse_list(list, &rooted).unwrap();
            let names: Vec<String> = faults.iter().map(|fault| fault.name().into()).collect();
            assert_eq!(Fault::summary(&names), list);
            assert_eq!(Fault::expand(list), names);
            assert_eq!(Fault::parse_list(&Fault::summary(&names), &rooted).unwrap(), faults);
        }
        assert_eq!(Fault::summary(&["flap".into(), "one-way".into()]), "flap, one-way");
    }
}
