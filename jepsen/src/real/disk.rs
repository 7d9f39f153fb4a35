//! A disk of a node's own, and what can be done to files while nobody has them open.
//!
//! A disk is a file with ext4 in it, mounted over a loop device. Losing power is ext4's own
//! shutdown without flushing its journal: from then on nothing is written any more, as if the
//! cable had been pulled, and the next mount shows what was flushed before.
//!
//! Left out: writes that the disk itself reorders or tears; a loop device does neither.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rustix::fs::{FallocateFlags, fallocate, statvfs};
use serde_json::{Value, json};

use crate::random::Random;
use crate::wait::until;

/// Size of a disk: more than a run writes, little enough to fill.
const DISK_BYTES: u64 = 512 << 20;
/// Most bits that one fault flips.
const FLIPS: u64 = 16;
/// How long a disk may stay busy after its process has ended.
const BUSY: Duration = Duration::from_secs(10);
/// `ioctl(EXT4_IOC_SHUTDOWN, NOLOGFLUSH)`; made by perl, since here nothing is unsafe.
const SHUT_DOWN: &str = "open(my $d, '<', $ARGV[0]) or die $!; my $flags = pack('L', 2); \
                         ioctl($d, 0x8004587d, $flags) or die $!;";

/// A node's disk.
#[derive(Clone, Debug)]
pub(crate) struct Disk {
    image: PathBuf,
    at: PathBuf,
}

impl Disk {
    /// The disk in a node's home, for its data.
    pub(crate) fn of(home: &Path, data: &Path) -> Disk {
        Disk { image: home.join("disk"), at: data.into() }
    }

    /// Makes the disk and mounts it.
    pub(crate) fn create(&self) -> Result<()> {
        File::create(&self.image)?.set_len(DISK_BYTES)?;
        command("mkfs.ext4", &["-q", "-F"], &[&self.image])?;
        std::fs::create_dir_all(&self.at)?;
        self.mount()
    }

    pub(crate) fn mount(&self) -> Result<()> {
        command("mount", &["-t", "ext4", "-o", "loop"], &[&self.image, &self.at])
    }

    /// Unmounts it, as soon as nobody uses it.
    pub(crate) fn unmount(&self) -> Result<()> {
        unmount(&self.at)
    }

    /// Unmounts it if it is mounted, and removes it.
    pub(crate) fn remove(&self) -> Result<()> {
        let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        let at = self.at.display().to_string();
        if mounts.lines().any(|line| line.split(' ').nth(1) == Some(&at)) {
            self.unmount()?;
        }
        std::fs::remove_file(&self.image).with_context(|| self.image.display().to_string())
    }

    /// Power is lost.
    pub(crate) fn shut_down(&self) -> Result<()> {
        command("perl", &["-e", SHUT_DOWN], &[&self.at])
    }
}

/// Whether disks can be mounted here: tried with a small one.
pub(crate) fn can_mount() -> bool {
    let tried = || -> Result<()> {
        let directory = tempfile::tempdir()?;
        let (image, at) = (directory.path().join("image"), directory.path().join("at"));
        std::fs::create_dir(&at)?;
        File::create(&image)?.set_len(8 << 20)?;
        command("mkfs.ext4", &["-q", "-F"], &[&image])?;
        let disk = Disk { image, at };
        disk.mount()?;
        disk.unmount()
    };
    tried().is_ok()
}

fn command(program: &str, words: &[&str], paths: &[&Path]) -> Result<()> {
    let mut command = Command::new(program);
    command.args(words).args(paths).stdin(Stdio::null());
    let output = command.output().with_context(|| program.to_owned())?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{program} {words:?} {paths:?}: {said}");
    Ok(())
}

/// Unmounts what a run that was killed has left mounted below a directory.
pub(crate) fn unmount_below(directory: &Path) -> Result<()> {
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let places = mounts.lines().filter_map(|line| line.split(' ').nth(1)).map(Path::new);
    places.filter(|at| at.starts_with(directory)).try_for_each(unmount)
}

fn unmount(at: &Path) -> Result<()> {
    let mut last = None;
    let done = until(BUSY, || {
        last = Some(command("umount", &[], &[at]));
        last.as_ref().is_some_and(Result::is_ok).then_some(())
    });
    done.map_or_else(|| last.unwrap_or(Ok(())), Ok)
}

/// Removes everything in a directory, which stays: it may be where a disk is mounted.
pub(crate) fn empty(directory: &Path) -> Result<()> {
    for entry in std::fs::read_dir(directory)? {
        let path = entry?.path();
        match path.is_dir() {
            true => std::fs::remove_dir_all(&path)?,
            false => std::fs::remove_file(&path)?,
        }
    }
    Ok(())
}

/// Flips bits in one file, near each other; says where.
pub(crate) fn flip(directory: &Path, random: &mut Random) -> Result<Value> {
    let (path, length) = draw(directory, random)?;
    let file = OpenOptions::new().read(true).write(true).open(&path)?;
    let at = random.between(0, length - 1);
    let flips = random.between(1, FLIPS);
    for _ in 0..flips {
        let place = (at + random.between(0, 4_096)).min(length - 1);
        let mut byte = [0];
        file.read_exact_at(&mut byte, place)?;
        byte[0] ^= 1 << random.below(8);
        file.write_all_at(&byte, place)?;
    }
    file.sync_all()?;
    Ok(json!({"file": path, "length": length, "at": at, "bits": flips}))
}

/// Cuts the end off one file; says how much is left.
pub(crate) fn cut_short(directory: &Path, random: &mut Random) -> Result<Value> {
    let (path, length) = draw(directory, random)?;
    let cut = random.between(1, (length / 2).clamp(1, 256 << 10));
    let file = OpenOptions::new().write(true).open(&path)?;
    file.set_len(length - cut)?;
    file.sync_all()?;
    Ok(json!({"file": path, "length": length, "left": length - cut}))
}

/// One of the files that hold something; where a byte lies decides, so large ones come oftener.
fn draw(directory: &Path, random: &mut Random) -> Result<(PathBuf, u64)> {
    let mut files = Vec::new();
    collect(directory, &mut files)?;
    files.sort();
    let total = files.iter().map(|(_, length)| length).sum::<u64>();
    ensure!(total > 0, "{} holds nothing", directory.display());
    let mut byte = random.between(0, total - 1);
    for (path, length) in files {
        if byte < length {
            return Ok((path, length));
        }
        byte -= length;
    }
    anyhow::bail!("the sizes of files do not add up")
}

fn collect(directory: &Path, files: &mut Vec<(PathBuf, u64)>) -> Result<()> {
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        let kind = entry.metadata()?;
        if kind.is_dir() && entry.file_name() != "lost+found" {
            collect(&entry.path(), files)?;
        } else if kind.is_file() && kind.len() > 0 {
            files.push((entry.path(), kind.len()));
        }
    }
    Ok(())
}

/// Takes all the room of a disk but `left` bytes.
pub(crate) fn fill(filler: &Path, left: u64) -> Result<()> {
    let file = File::create(filler)?;
    let parent = filler.parent().context("a file has a directory")?;
    let mut size = 0;
    // In steps: the file system needs some of the room for itself.
    loop {
        let free = statvfs(parent)?;
        let more = (free.f_bavail * free.f_frsize).saturating_sub(left);
        let step = more.min(16 << 20);
        if step < 4_096 || fallocate(&file, FallocateFlags::empty(), size, step).is_err() {
            return Ok(());
        }
        size += step;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A directory of three files, one empty and one in a directory.
    fn files() -> tempfile::TempDir {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("a"), [0; 100_000]).unwrap();
        std::fs::write(directory.path().join("b"), []).unwrap();
        std::fs::create_dir(directory.path().join("c")).unwrap();
        std::fs::write(directory.path().join("c/d"), [0; 50]).unwrap();
        directory
    }

    fn ones(path: &Path) -> u32 {
        std::fs::read(path).unwrap().iter().map(|byte| byte.count_ones()).sum()
    }

    #[test]
    fn bits_are_flipped_and_nothing_else() {
        for seed in 0..20 {
            let files = files();
            flip(files.path(), &mut Random::new(seed)).unwrap();
            let (a, d) = (files.path().join("a"), files.path().join("c/d"));
            assert!((1..=16).contains(&(ones(&a) + ones(&d))), "seed {seed}");
            assert_eq!(std::fs::metadata(&a).unwrap().len(), 100_000);
        }
    }

    #[test]
    fn one_file_is_cut_short() {
        let files = files();
        let said = cut_short(files.path(), &mut Random::new(3)).unwrap();
        let length = std::fs::metadata(said["file"].as_str().unwrap()).unwrap().len();
        assert_eq!(Some(length), said["left"].as_u64());
        assert!(length < said["length"].as_u64().unwrap());
        empty(files.path()).unwrap();
        assert_eq!(std::fs::read_dir(files.path()).unwrap().count(), 0);
        assert!(cut_short(files.path(), &mut Random::new(3)).is_err());
    }
}
