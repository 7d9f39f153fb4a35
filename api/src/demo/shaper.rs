//! A UDP link with a distance: packets arrive later, in order, or not at all.
//!
//! One proxy stands between each ordered pair of nodes of different regions: A dials the proxy,
//! which forwards to B from a socket of its own, and B's answers go back the same way.
//!
//! Invariants:
//! 1. First in, first out, in both directions together, as long as the delay is the same.
//! 2. A cut drops what arrives and what is under way.
//! 3. At most `QUEUE_MAX` bytes are under way; what comes on top is dropped.
//! 4. An idle link costs nothing: it sleeps until a packet arrives or the next one is due.
//! 5. A link opened with [`Weather`] also loses, doubles and reorders, each direction by itself,
//!    and by nothing but the chance that it is given.
//!
//! Left out: a bound on bandwidth. A proxy serves one dialler: a packet from another source takes
//! it over.

use std::collections::VecDeque;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use socket2::{Domain, SockRef, Socket, Type};
use tokio::net::UdpSocket;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until};

/// Bytes under way: 36 MB/s over the longest link.
const QUEUE_MAX: usize = 4 << 20;
/// What a queued packet costs beside its bytes.
const PACKET_COST: usize = 64;
/// Kernel buffer of each socket, as far as the system allows.
const SOCKET_BUFFER: usize = 1 << 20;
/// Packets taken from one socket before the others get their turn.
const BURST: usize = 64;
/// Largest UDP packet.
const PACKET_MAX: usize = 65_536;

/// What happens to packets in one direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sky {
    /// Nothing passes.
    pub cut: bool,
    /// How long a packet takes at least.
    pub delay: Duration,
    /// Up to this much longer, each packet by itself: so they pass each other.
    pub jitter: Duration,
    /// Packets lost, of a thousand.
    pub loss: u16,
    /// Packets that arrive twice, of a thousand.
    pub twice: u16,
}

/// What happens on a link, set while it runs.
#[derive(Debug, Default)]
pub struct Weather {
    forward: Mutex<Sky>,
    back: Mutex<Sky>,
}

impl Weather {
    /// From the dialler to the target, or back.
    pub fn set(&self, forward: bool, sky: Sky) {
        *self.side(forward).lock().unwrap_or_else(PoisonError::into_inner) = sky;
    }

    /// What it is now.
    pub fn sky(&self, forward: bool) -> Sky {
        *self.side(forward).lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn side(&self, forward: bool) -> &Mutex<Sky> {
        if forward { &self.forward } else { &self.back }
    }
}

/// Where chance comes from: 64 even bits a call.
pub type Chance = Box<dyn FnMut() -> u64 + Send + Sync>;

/// A running link. Dropping it ends it.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    task: JoinHandle<()>,
}

impl Proxy {
    /// Opens a link to `target`, `delay` away, that drops everything while `cut` is set.
    pub fn open(target: SocketAddr, delay: Duration, cut: Arc<AtomicBool>) -> io::Result<Proxy> {
        Proxy::run(target, Air::Calm { delay, cut })
    }

    /// Opens a link to `target` on which `weather` decides.
    pub fn under(target: SocketAddr, weather: Arc<Weather>, chance: Chance) -> io::Result<Proxy> {
        Proxy::run(target, Air::Stormy { weather, chance })
    }

    fn run(target: SocketAddr, air: Air) -> io::Result<Proxy> {
        let front = socket()?;
        let address = front.local_addr()?;
        let queue = VecDeque::new();
        let buffer = vec![0; PACKET_MAX];
        let link = Link { front, back: None, target, air, queue, queued: 0, buffer };
        Ok(Proxy { address, task: tokio::spawn(link.run()) })
    }

    /// Where the dialler sends to.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Link {
    front: UdpSocket,
    /// The dialler, and the socket that speaks for it to the target.
    back: Option<(SocketAddr, UdpSocket)>,
    target: SocketAddr,
    air: Air,
    /// By when they are due.
    queue: VecDeque<Packet>,
    queued: usize,
    buffer: Vec<u8>,
}

/// What decides over packets.
enum Air {
    /// One distance, and one cut of both directions.
    Calm {
        delay: Duration,
        cut: Arc<AtomicBool>,
    },
    Stormy {
        weather: Arc<Weather>,
        chance: Chance,
    },
}

impl Air {
    fn is_cut(&self, forward: bool) -> bool {
        match self {
            Air::Calm { cut, .. } => cut.load(Ordering::Relaxed),
            Air::Stormy { weather, .. } => weather.sky(forward).cut,
        }
    }

    /// After how long a packet arrives, and after how long once more; never if lost.
    fn arrivals(&mut self, forward: bool) -> [Option<Duration>; 2] {
        match self {
            Air::Calm { cut, .. } if cut.load(Ordering::Relaxed) => [None, None],
            Air::Calm { delay, .. } => [Some(*delay), None],
            Air::Stormy { weather, chance } => fall(weather.sky(forward), chance),
        }
    }
}

/// What becomes of a packet under this sky.
fn fall(sky: Sky, chance: &mut Chance) -> [Option<Duration>; 2] {
    if sky.cut {
        return [None, None];
    }
    let mut once = |of_thousand: u16| of_thousand > 0 && chance() % 1000 < of_thousand.into();
    let (lost, twice) = (once(sky.loss), once(sky.twice));
    let mut delay = || {
        let spread = u64::try_from(sky.jitter.as_micros()).unwrap_or(u64::MAX);
        let more = if spread == 0 { 0 } else { chance() % spread };
        sky.delay + Duration::from_micros(more)
    };
    [(!lost).then(&mut delay), (twice && !lost).then(&mut delay)]
}

struct Packet {
    due: Instant,
    /// To the target, not from it.
    forward: bool,
    bytes: Box<[u8]>,
}

enum Woken {
    Front,
    Back,
    Due,
}

impl Link {
    async fn run(mut self) {
        loop {
            match self.wake().await {
                Woken::Front => self.take_front(),
                Woken::Back => self.take_back(),
                Woken::Due => self.deliver(),
            }
        }
    }

    async fn wake(&self) -> Woken {
        let due = self.queue.front().map(|packet| packet.due);
        let back = async {
            match &self.back {
                Some((_, back)) => back.readable().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = self.front.readable() => Woken::Front,
            _ = back => Woken::Back,
            () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => Woken::Due,
        }
    }

    fn take_front(&mut self) {
        for _ in 0..BURST {
            match self.front.try_recv_from(&mut self.buffer) {
                Ok((size, source)) => {
                    if self.back.as_ref().is_none_or(|(known, _)| *known != source) {
                        self.back = connected(self.target).ok().map(|back| (source, back));
                    }
                    self.pass(true, size);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                // A port that nobody listens on shows here; the packet is lost, as in a network.
                Err(_) => {}
            }
        }
    }

    fn take_back(&mut self) {
        for _ in 0..BURST {
            let Some((_, back)) = &self.back else { return };
            match back.try_recv(&mut self.buffer) {
                Ok(size) => self.pass(false, size),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(_) => {}
            }
        }
    }

    fn pass(&mut self, forward: bool, size: usize) {
        for delay in self.air.arrivals(forward).into_iter().flatten() {
            if delay.is_zero() {
                self.send(forward, &self.buffer[..size]);
            } else if self.queued + size + PACKET_COST <= QUEUE_MAX {
                self.queued += size + PACKET_COST;
                let (due, bytes) = (Instant::now() + delay, self.buffer[..size].into());
                // At the end, as long as the delay is the same.
                let place = match self.queue.back() {
                    Some(last) if last.due > due => {
                        self.queue.partition_point(|packet| packet.due <= due)
                    }
                    _ => self.queue.len(),
                };
                self.queue.insert(place, Packet { due, forward, bytes });
            }
        }
    }

    fn deliver(&mut self) {
        let now = Instant::now();
        while self.queue.front().is_some_and(|packet| packet.due <= now) {
            let Some(packet) = self.queue.pop_front() else { return };
            self.queued -= packet.bytes.len() + PACKET_COST;
            if !self.air.is_cut(packet.forward) {
                self.send(packet.forward, &packet.bytes);
            }
        }
    }

    /// Sends, or loses the packet as a network would.
    fn send(&self, forward: bool, bytes: &[u8]) {
        let Some((source, back)) = &self.back else { return };
        // Past tokio, which takes a fresh socket for unwritable until it has polled it.
        drop(match forward {
            true => SockRef::from(back).send(bytes),
            false => SockRef::from(&self.front).send_to(bytes, &(*source).into()),
        });
    }
}

fn socket() -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, None)?;
    // As much as the system gives: more would only be needed under full load.
    drop(socket.set_recv_buffer_size(SOCKET_BUFFER));
    drop(socket.set_send_buffer_size(SOCKET_BUFFER));
    socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into())?;
    socket.set_nonblocking(true)?;
    UdpSocket::from_std(socket.into())
}

fn connected(target: SocketAddr) -> io::Result<UdpSocket> {
    let back = socket()?;
    SockRef::from(&back).connect(&target.into())?;
    Ok(back)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::time::timeout;

    async fn receive(socket: &UdpSocket) -> (String, SocketAddr) {
        let mut buffer = [0; 100];
        let received = timeout(Duration::from_secs(10), socket.recv_from(&mut buffer)).await;
        let (size, source) = received.expect("a packet in time").expect("received");
        (String::from_utf8_lossy(&buffer[..size]).into(), source)
    }

    async fn silent(socket: &UdpSocket) -> bool {
        let mut buffer = [0; 100];
        timeout(Duration::from_millis(300), socket.recv_from(&mut buffer)).await.is_err()
    }

    #[tokio::test]
    async fn delays_in_order_and_back_again() {
        let (a, b) = (socket().expect("a"), socket().expect("b"));
        let delay = Duration::from_millis(50);
        let target = b.local_addr().expect("bound");
        let proxy = Proxy::open(target, delay, Arc::default()).expect("open");
        let start = Instant::now();
        for packet in ["1", "2", "3"] {
            a.send_to(packet.as_bytes(), proxy.address()).await.expect("sent");
        }
        let (first, source) = receive(&b).await;
        assert!(start.elapsed() >= delay, "{:?}", start.elapsed());
        assert_eq!((first.as_str(), receive(&b).await.0.as_str()), ("1", "2"));
        assert_eq!(receive(&b).await.0, "3");
        b.send_to(b"answer", source).await.expect("sent");
        assert_eq!(receive(&a).await, ("answer".into(), proxy.address()));
        assert!(start.elapsed() >= delay * 2, "{:?}", start.elapsed());
    }

    #[tokio::test]
    async fn a_cut_drops_both_ways_and_heals() {
        for delay in [Duration::ZERO, Duration::from_millis(20)] {
            let (a, b) = (socket().expect("a"), socket().expect("b"));
            let cut = Arc::new(AtomicBool::new(false));
            let target = b.local_addr().expect("bound");
            let proxy = Proxy::open(target, delay, cut.clone()).expect("open");
            a.send_to(b"before", proxy.address()).await.expect("sent");
            let (_, source) = receive(&b).await;
            cut.store(true, Ordering::Relaxed);
            a.send_to(b"lost", proxy.address()).await.expect("sent");
            b.send_to(b"lost", source).await.expect("sent");
            assert!(silent(&a).await && silent(&b).await);
            cut.store(false, Ordering::Relaxed);
            a.send_to(b"after", proxy.address()).await.expect("sent");
            assert_eq!(receive(&b).await, ("after".into(), source));
        }
    }
    fn counter() -> Chance {
        let mut next = 0;
        Box::new(move || {
            next += 1;
            next * 7
        })
    }

    #[test]
    fn packets_are_lost_doubled_and_delayed_by_chance() {
        let sky = |loss, twice, ms| Sky {
            loss,
            twice,
            jitter: Duration::from_millis(ms),
            ..Sky::default()
        };
        let count = |sky| {
            let mut chance = counter();
            let fallen: Vec<_> = (0..1000).map(|_| fall(sky, &mut chance)).collect();
            let arrived = fallen.iter().filter(|times| times[0].is_some()).count();
            let again = fallen.iter().filter(|times| times[1].is_some()).count();
            (arrived, again, fallen.iter().flatten().flatten().max().copied())
        };
        assert_eq!(count(sky(0, 0, 0)), (1000, 0, Some(Duration::ZERO)));
        assert_eq!(count(sky(1000, 1000, 5)), (0, 0, None));
        assert_eq!(count(sky(50, 0, 0)), (950, 0, Some(Duration::ZERO)));
        assert_eq!(count(sky(0, 50, 0)).1, 50);
        let (arrived, _, most) = count(sky(0, 0, 5));
        assert!(arrived == 1000 && most.is_some_and(|most| most < Duration::from_millis(5)));
        assert_eq!(count(Sky { cut: true, ..sky(0, 1000, 0) }), (0, 0, None));
    }

    #[tokio::test]
    async fn one_direction_is_cut_and_the_other_passes() {
        let (a, b) = (socket().expect("a"), socket().expect("b"));
        let weather = Arc::new(Weather::default());
        let target = b.local_addr().expect("bound");
        let proxy = Proxy::under(target, weather.clone(), counter()).expect("open");
        a.send_to(b"before", proxy.address()).await.expect("sent");
        let (_, source) = receive(&b).await;
        weather.set(false, Sky { cut: true, ..Sky::default() });
        a.send_to(b"there", proxy.address()).await.expect("sent");
        assert_eq!(receive(&b).await.0, "there");
        b.send_to(b"lost", source).await.expect("sent");
        assert!(silent(&a).await);
        weather.set(false, Sky { twice: 1000, ..Sky::default() });
        b.send_to(b"back", source).await.expect("sent");
        assert_eq!((receive(&a).await.0, receive(&a).await.0), ("back".into(), "back".into()));
    }

    #[tokio::test]
    async fn jitter_reorders() {
        let (a, b) = (socket().expect("a"), socket().expect("b"));
        let weather = Arc::new(Weather::default());
        let target = b.local_addr().expect("bound");
        let mut late = [49_000, 0].into_iter();
        let chance = Box::new(move || late.next().unwrap_or(0));
        let proxy = Proxy::under(target, weather.clone(), chance).expect("open");
        weather.set(true, Sky { jitter: Duration::from_millis(50), ..Sky::default() });
        for packet in ["1", "2"] {
            // Both wait in the socket before the link is polled at all.
            let to = proxy.address().into();
            SockRef::from(&a).send_to(packet.as_bytes(), &to).expect("sent");
        }
        assert_eq!((receive(&b).await.0, receive(&b).await.0), ("2".into(), "1".into()));
    }
}
