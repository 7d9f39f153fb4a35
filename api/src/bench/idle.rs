//! What a demo that does nothing costs: processor time and memory of all its processes.

use std::net::TcpListener;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::time::sleep;

use super::Plan;
use super::report::Row;
use crate::cli::Failure;
use crate::demo::Child;

/// How long the demo may take to start.
const START: Duration = Duration::from_secs(60);
/// How long it settles before it is measured.
const SETTLE: Duration = Duration::from_secs(3);
/// Shortest time to measure over.
const SHORTEST: Duration = Duration::from_secs(5);

/// Starts a demo and watches it do nothing.
pub(super) async fn measure(plan: &Plan) -> Result<Vec<Row>, Failure> {
    let home = tempfile::tempdir().map_err(Failure::of("directory"))?;
    let base = base()?.to_string();
    let data = home.path().join("demo").display().to_string();
    let own = std::env::current_exe().map_err(Failure::of("this program's path"))?;
    let nodes = plan.program.display().to_string();
    let arguments = ["demo", "--base-port", &base, "--data", &data, "--program", &nodes];
    let log = home.path().join("log");
    let demo = Child::start(&own, &arguments, &log)?;
    let mut processes = started(&demo, &Path::new(&data).join("demo.json"), &log).await?;
    processes.push(demo.pid());
    sleep(SETTLE).await;
    let (before, start) = (busy(&processes)?, Instant::now());
    sleep(plan.length.max(SHORTEST)).await;
    let spent = busy(&processes)?.saturating_sub(before);
    let share = spent.as_secs_f64() / start.elapsed().as_secs_f64() * 100.0;
    let memory = resident(&processes)?;
    demo.terminate().await;
    Ok(vec![
        Row { name: "idle demo, processor", unit: "% of a core", value: share, ..Row::default() },
        Row { name: "idle demo, memory", unit: "MB", value: memory, ..Row::default() },
    ])
}

/// The nodes' process numbers, once all are ready.
async fn started(demo: &Child, file: &Path, log: &Path) -> Result<Vec<u32>, Failure> {
    let deadline = Instant::now() + START;
    loop {
        if let Ok(text) = std::fs::read_to_string(file) {
            let value: Value = serde_json::from_str(&text).unwrap_or_default();
            let nodes = value["nodes"].as_array().into_iter().flatten();
            let pid = |node: &Value| node["pid"].as_u64().and_then(|pid| u32::try_from(pid).ok());
            return Ok(nodes.filter_map(pid).collect());
        }
        if !demo.is_running() || Instant::now() >= deadline {
            let log = std::fs::read_to_string(log).unwrap_or_default();
            return Err(Failure::failed(format!("the demo did not start: {}", log.trim())));
        }
        sleep(Duration::from_millis(100)).await;
    }
}

/// Processor time of all threads of the processes since their start.
fn busy(processes: &[u32]) -> Result<Duration, Failure> {
    let mut total = 0;
    for process in processes {
        let directory = format!("/proc/{process}/task");
        for thread in std::fs::read_dir(&directory).map_err(Failure::of(&directory))?.flatten() {
            // Nanoseconds on the processor come first; a thread may end meanwhile.
            let text = std::fs::read_to_string(thread.path().join("schedstat")).unwrap_or_default();
            total += text.split(' ').next().and_then(|ns| ns.parse::<u64>().ok()).unwrap_or(0);
        }
    }
    Ok(Duration::from_nanos(total))
}

/// Resident memory of the processes added up (pages that they share count each time), in MB.
fn resident(processes: &[u32]) -> Result<f64, Failure> {
    let mut total = 0;
    for process in processes {
        let path = format!("/proc/{process}/status");
        let text = std::fs::read_to_string(&path).map_err(Failure::of(&path))?;
        let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok());
        total += kib.ok_or_else(|| Failure::failed(format!("{path} tells no VmRSS")))?;
    }
    Ok(total as f64 * 1024.0 / 1e6)
}

/// A base port with three free ones above it.
fn base() -> Result<u16, Failure> {
    for base in (20_000..60_000).step_by(100) {
        let bound = |port| TcpListener::bind(("127.0.0.1", port)).is_ok();
        if (base..base + 4).all(bound) {
            return Ok(base);
        }
    }
    Err(Failure::failed("no four free ports in a row"))
}
