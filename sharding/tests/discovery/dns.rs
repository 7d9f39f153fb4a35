//! DNS, answered by a small authoritative server over UDP and TCP.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use atoll_sharding::discovery::{Dns, Method};
use hickory_resolver::proto::op::{Message, ResponseCode};
use hickory_resolver::proto::rr::rdata::{A, AAAA, SRV};
use hickory_resolver::proto::rr::{Name, RData, Record};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, UdpSocket};
use tokio::sync::watch;
use tokio::time::timeout;

use super::{PATIENCE, Watching, registration};

/// What a datagram may hold where the question does not say more.
const DATAGRAM: usize = 512;

/// Names with their records, and how often was asked.
#[derive(Default)]
struct Zone {
    records: BTreeMap<Name, Vec<RData>>,
    asked: usize,
    by_tcp: usize,
}

#[derive(Clone)]
struct Server {
    zone: Arc<watch::Sender<Zone>>,
    address: SocketAddr,
}

fn name(text: &str) -> Name {
    Name::from_str(text).expect("a name")
}

impl Server {
    /// Answers on one port, by UDP and TCP.
    async fn start() -> Server {
        let (udp, tcp) = loop {
            let udp = UdpSocket::bind("127.0.0.1:0").await.expect("a port");
            let address = udp.local_addr().expect("bound");
            if let Ok(tcp) = TcpListener::bind(address).await {
                break (udp, tcp);
            }
        };
        let address = udp.local_addr().expect("bound");
        let server = Server { zone: Arc::new(watch::Sender::default()), address };
        tokio::spawn(server.clone().datagrams(udp));
        tokio::spawn(server.clone().streams(tcp));
        server
    }

    async fn datagrams(self, socket: UdpSocket) {
        let mut buffer = [0; 4096];
        while let Ok((length, from)) = socket.recv_from(&mut buffer).await {
            let question = Message::from_vec(&buffer[..length]).expect("a question");
            let room = question.edns.as_ref().map_or(DATAGRAM, |edns| edns.max_payload().into());
            let mut answer = self.answer(&question, false);
            if answer.to_vec().expect("encodes").len() > room {
                answer.answers.clear();
                answer.metadata.truncation = true;
            }
            let bytes = answer.to_vec().expect("encodes");
            socket.send_to(&bytes, from).await.expect("sent");
        }
    }

    async fn streams(self, listener: TcpListener) {
        while let Ok((mut stream, _)) = listener.accept().await {
            let server = self.clone();
            tokio::spawn(async move {
                while let Ok(length) = stream.read_u16().await {
                    let mut bytes = vec![0; length.into()];
                    stream.read_exact(&mut bytes).await.expect("a whole question");
                    let question = Message::from_vec(&bytes).expect("a question");
                    let bytes = server.answer(&question, true).to_vec().expect("encodes");
                    stream.write_u16(bytes.len() as u16).await.expect("sent");
                    stream.write_all(&bytes).await.expect("sent");
                }
            });
        }
    }

    fn answer(&self, question: &Message, by_tcp: bool) -> Message {
        let query = question.queries.first().expect("one question");
        let mut answer = Message::response(question.metadata.id, question.metadata.op_code);
        answer.metadata.authoritative = true;
        answer.add_query(query.clone());
        self.zone.send_modify(|zone| {
            zone.asked += 1;
            zone.by_tcp += usize::from(by_tcp);
            let Some(records) = zone.records.get(query.name()) else {
                answer.metadata.response_code = ResponseCode::NXDomain;
                return;
            };
            let fitting = records.iter().filter(|data| data.record_type() == query.query_type());
            for data in fitting {
                answer.add_answer(Record::from_rdata(query.name().clone(), 5, data.clone()));
            }
        });
        answer
    }

    fn set(&self, of: &str, records: Vec<RData>) {
        self.zone.send_modify(|zone| drop(zone.records.insert(name(of), records)));
    }

    fn remove(&self, of: &str) {
        self.zone.send_modify(|zone| drop(zone.records.remove(&name(of))));
    }

    /// Waits until it was asked so many times more.
    async fn asked(&self, more: usize) {
        let goal = self.zone.borrow().asked + more;
        let mut zone = self.zone.subscribe();
        let asked = timeout(PATIENCE, zone.wait_for(|zone| zone.asked >= goal)).await;
        asked.expect("it is asked").expect("the server lives");
    }

    fn method(&self, of: &str, srv: bool) -> Method {
        Method::Dns(Dns {
            name: of.into(),
            srv,
            port: 7401,
            server: Some(self.address),
            interval: Duration::from_millis(20),
        })
    }
}

fn v4(text: &str) -> RData {
    RData::A(A(text.parse::<Ipv4Addr>().expect("an address")))
}

fn v6(text: &str) -> RData {
    RData::AAAA(AAAA(text.parse::<Ipv6Addr>().expect("an address")))
}

fn srv(port: u16, target: &str) -> RData {
    RData::SRV(SRV::new(0, 0, port, name(target)))
}

#[tokio::test]
async fn addresses_are_found_and_followed() {
    let server = Server::start().await;
    server.set("atoll.sea.", vec![v4("10.0.0.1"), v4("10.0.0.2"), v6("fd00::2")]);
    let me = registration(1, "10.0.0.1:7401");
    let mut watching = Watching::start(server.method("atoll.sea.", false), me);
    watching.sees(&["10.0.0.2:7401", "[fd00::2]:7401"]).await;
    server.set("atoll.sea.", vec![v4("10.0.0.1"), v4("10.0.0.3")]);
    watching.sees(&["10.0.0.3:7401"]).await;
}

#[tokio::test]
async fn a_name_without_records_takes_nothing_away() {
    let server = Server::start().await;
    let mut watching =
        Watching::start(server.method("atoll.sea.", false), registration(1, "10.0.0.1:7401"));
    server.asked(2).await;
    server.set("atoll.sea.", vec![v4("10.0.0.2")]);
    watching.sees(&["10.0.0.2:7401"]).await;
    server.remove("atoll.sea.");
    // Two families a round: the second round begins after the first one was taken in.
    server.asked(5).await;
    assert_eq!(watching.now(), ["10.0.0.2:7401"]);
    server.set("atoll.sea.", vec![v4("10.0.0.3")]);
    watching.sees(&["10.0.0.3:7401"]).await;
}

#[tokio::test]
async fn services_name_their_ports() {
    let server = Server::start().await;
    let service = "_quic._udp.atoll.sea.";
    server.set(service, vec![srv(7401, "a.sea."), srv(7411, "b.sea."), srv(7421, "gone.sea.")]);
    server.set("a.sea.", vec![v4("10.0.0.1")]);
    server.set("b.sea.", vec![v4("10.0.0.1"), v6("fd00::1")]);
    let me = registration(1, "10.0.0.1:7401");
    let mut watching = Watching::start(server.method(service, true), me);
    watching.sees(&["10.0.0.1:7411", "[fd00::1]:7411"]).await;
}

#[tokio::test]
async fn what_does_not_fit_into_a_datagram_comes_by_tcp() {
    let server = Server::start().await;
    let hosts: Vec<String> = (1..=200).map(|host| format!("10.0.0.{host}")).collect();
    server.set("atoll.sea.", hosts.iter().map(|host| v4(host)).collect());
    let mut watching =
        Watching::start(server.method("atoll.sea.", false), registration(1, "elsewhere:1"));
    let all: Vec<String> = hosts.iter().map(|host| format!("{host}:7401")).collect();
    watching.sees(&all.iter().map(String::as_str).collect::<Vec<_>>()).await;
    assert!(server.zone.borrow().by_tcp > 0, "a truncated answer was taken for the whole");
}
