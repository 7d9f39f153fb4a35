//! One child process: started, watched, ended.
//!
//! Invariants:
//! 1. One task owns the process and reaps it; a signal is sent only while that task holds it, so
//!    never to a process that took over its number.
//! 2. Its standard input is ours: when we die, it ends.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{ChildStdin, Command};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, timeout};

use crate::cli::Failure;
use crate::client::{Call, Client};

/// How long a node may take from SIGTERM to its end.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long a node may take from its start to `/readyz`.
const READY: Duration = Duration::from_secs(30);
/// Pause between two questions to `/readyz`.
const READY_PAUSE: Duration = Duration::from_millis(50);

#[derive(Clone, Copy, Debug)]
enum Order {
    Terminate,
    Kill,
}

/// A handle of a child process. Dropping the last one kills it.
#[derive(Clone, Debug)]
pub(crate) struct Child {
    pid: u32,
    orders: mpsc::Sender<Order>,
    ended: watch::Receiver<bool>,
}

impl Child {
    /// Starts `program` with `arguments`; what it prints goes to `log`.
    pub(crate) fn start(program: &Path, arguments: &[&str], log: &Path) -> Result<Child, Failure> {
        let open = std::fs::OpenOptions::new().create(true).append(true).open(log);
        let log = open.map_err(Failure::of(log.display()))?;
        let errors = log.try_clone().map_err(Failure::of("log"))?;
        let mut child = Command::new(program)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(log)
            .stderr(errors)
            // A group of its own: Ctrl-C reaches only the supervisor, which ends it in order.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .map_err(Failure::of(program.display()))?;
        let pid = child.id().expect("a process that was not waited for has a number");
        let input = child.stdin.take();
        let (orders, received) = mpsc::channel(4);
        let (ending, ended) = watch::channel(false);
        tokio::spawn(tend(child, input, received, ending));
        Ok(Child { pid, orders, ended })
    }

    /// Its process number.
    pub(crate) fn pid(&self) -> u32 {
        self.pid
    }

    /// Whether it runs.
    pub(crate) fn is_running(&self) -> bool {
        !*self.ended.borrow()
    }

    /// Done once the process has ended.
    pub(crate) async fn ended(&self) {
        // A lost sender means that the task has ended, and with it the process.
        drop(self.ended.clone().wait_for(|ended| *ended).await);
    }

    /// SIGKILL, and waits for the end.
    pub(crate) async fn kill(&self) {
        let _ = self.orders.send(Order::Kill).await;
        self.ended().await;
    }

    /// SIGTERM, SIGKILL after five seconds, and waits for the end.
    pub(crate) async fn terminate(&self) {
        let _ = self.orders.send(Order::Terminate).await;
        if timeout(PATIENCE, self.ended()).await.is_err() {
            self.kill().await;
        }
    }
}

async fn tend(
    mut child: tokio::process::Child,
    input: Option<ChildStdin>,
    mut orders: mpsc::Receiver<Order>,
    ending: watch::Sender<bool>,
) {
    loop {
        tokio::select! {
            _ = child.wait() => break,
            order = orders.recv() => match (order, child.id()) {
                (Some(Order::Terminate), Some(pid)) => {
                    if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
                        // The only failure is that it has ended, which `wait` will tell.
                        let _ = kill_process(pid, Signal::TERM);
                    }
                }
                // No order can follow: nobody holds a handle any more.
                (None, _) => {
                    drop(child.kill().await);
                    break;
                }
                _ => {
                    let _ = child.start_kill();
                }
            },
        }
    }
    drop(input);
    let _ = ending.send(true);
}

/// Waits until a node says that it is ready; an early end or thirty seconds are a failure.
pub(crate) async fn ready(child: &Child, url: &str, log: &Path) -> Result<(), Failure> {
    let client = Client::new(url)?;
    let deadline = Instant::now() + READY;
    let asking = async {
        loop {
            let answer = timeout(READY, client.raw(&Call::get("/readyz"))).await;
            if matches!(&answer, Ok(Ok((status, _))) if status.is_success()) {
                return Ok(());
            }
            if Instant::now() >= deadline {
                let last = match answer {
                    Ok(Ok((status, body))) => {
                        format!("{status} {}", String::from_utf8_lossy(&body))
                    }
                    Ok(Err(error)) => error.to_string(),
                    Err(_) => "no answer".into(),
                };
                return Err(Failure::failed(format!("{url} is not ready after 30 s: {last}")));
            }
            sleep(READY_PAUSE).await;
        }
    };
    tokio::select! {
        result = asking => result,
        () = child.ended() => {
            let text = std::fs::read_to_string(log).unwrap_or_default();
            let lines: Vec<&str> = text.lines().rev().take(5).collect();
            let tail: Vec<&str> = lines.into_iter().rev().collect();
            Err(Failure::failed(format!("the node at {url} ended: {}", tail.join("\n  "))))
        }
    }
}
