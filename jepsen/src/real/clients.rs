//! Clients: each bound to a node, or to a region whose nodes come and go; one operation at a time,
//! by a schedule from the seed.
//!
//! Invariants:
//! 1. When an operation is due does not depend on how those before it went, as long as its client
//!    is free; a client that was held up leaves out what it missed by more than [`LATE`].
//! 2. Where nodes come and go, an operation is recorded at the node that served it.
//! 3. There, what one node of a region does not answer another one does, asked again at once: else
//!    it is wrong. A write without a key is not asked again once its fate is unknown, which is
//!    wrong too unless processes are killed.
//! 4. What is recorded of an operation is what its workload says of the answers.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use super::asking::{Asker, NO_WORD, failure, is_repeatable};
use super::world::{World, lock};
use crate::history::Type;
use crate::random::Random;
use crate::workloads::{Answer, Invocation, Place, Request, Step, Workload};

/// How late an operation may begin.
const LATE: Duration = Duration::from_secs(1);
/// Requests of one operation, after which nobody waits for its end.
const REQUESTS_MAX: usize = 1_000;
/// How long a final operation is tried again.
const FINAL: Duration = Duration::from_secs(30);
/// Pause between two tries of it.
const AGAIN: Duration = Duration::from_millis(100);

/// A workload and its chance, which clients share.
pub(crate) struct Shared {
    workload: Box<dyn Workload>,
    random: Random,
}

impl Shared {
    pub(crate) fn new(workload: Box<dyn Workload>, random: Random) -> Mutex<Shared> {
        Mutex::new(Shared { workload, random })
    }

    pub(crate) fn workload(&self) -> &dyn Workload {
        &*self.workload
    }
}

/// One client.
pub(crate) struct Client<'a> {
    world: &'a World,
    shared: &'a Mutex<Shared>,
    number: u64,
    home: usize,
    random: Random,
    asker: Asker,
}

impl<'a> Client<'a> {
    /// The client of that number, bound to a node in turn.
    pub(crate) fn new(
        world: &'a World,
        shared: &'a Mutex<Shared>,
        number: u64,
        seed: u64,
    ) -> Client<'a> {
        let home = (number % world.places.len() as u64) as usize;
        let asker = Asker::new(world.places.iter().map(|p| (p.name.as_str(), p.address)));
        Client { world, shared, number, home, random: Random::new(seed), asker }
    }

    /// Acts at this rate, operations a second, until clients are over.
    pub(crate) fn run(&mut self, rate: f64) {
        let mut due = Instant::now();
        loop {
            due += gap(rate, &mut self.random);
            if !self.world.wait_for_client(due) {
                return;
            }
            due = due.max(Instant::now().checked_sub(LATE).unwrap_or(due));
            let process = self.world.process(self.number);
            let invocation = {
                let Shared { workload, random } = &mut *lock(self.shared);
                workload.next(random, process)
            };
            self.perform(&invocation);
        }
    }

    /// Does what must show everything, until it is answered; says what is not.
    pub(crate) fn finish(mut self) {
        let finals = lock(self.shared).workload.finals();
        for invocation in finals {
            let end = Instant::now() + FINAL;
            while self.perform(&invocation) != Type::Ok {
                if Instant::now() >= end {
                    let name = &self.world.places[self.home].name;
                    self.world.complain(format!("{} of {name} was not answered", invocation.f));
                    break;
                }
                std::thread::sleep(AGAIN);
            }
        }
    }

    /// One operation, from its invocation to its end.
    fn perform(&mut self, invocation: &Invocation) -> Type {
        let process = self.world.process(self.number);
        let mut answers: Vec<Answer> = Vec::new();
        let (mut node, mut begun) = (self.home, false);
        loop {
            let step = lock(self.shared).workload.step(process, invocation, &answers);
            let (request, place) = match step {
                Step::Ask(place, request) if answers.len() < REQUESTS_MAX => (request, place),
                ended => return self.end(invocation, ended, node, begun),
            };
            let asked = self.place(place);
            let (at, answer) = self.ask(invocation, asked, &request, &mut begun);
            node = at;
            answers.push(answer);
        }
    }

    /// One request; where nodes come and go, at another node of the region if the first one does
    /// not answer. Says who was asked last.
    fn ask(
        &mut self,
        of: &Invocation,
        node: usize,
        request: &Request,
        begun: &mut bool,
    ) -> (usize, Answer) {
        let world = self.world;
        if !world.roams {
            return (node, self.ask_one(of, node, request, begun));
        }
        let first = world.stand_in(node);
        let answer = self.ask_one(of, first, request, begun);
        let Some(why) = failure(&answer) else { return (first, answer) };
        let name = &world.places[first].name;
        if !is_repeatable(request, &answer) {
            if world.is_gentle {
                world.complain(format!("{} of {}: {name} says {answer:?}", of.f, of.value));
            }
            return (first, answer);
        }
        let Some(second) = world.another(first) else { return (first, answer) };
        let retried = self.ask_one(of, second, request, begun);
        match failure(&retried) {
            None => *lock(&world.cured).entry(why.to_owned()).or_default() += 1,
            Some(_) => world.complain(format!(
                "{} of {}: {name} says {answer:?}, and {} {retried:?}",
                of.f, of.value, world.places[second].name
            )),
        }
        (second, either(answer, retried))
    }

    fn ask_one(
        &mut self,
        of: &Invocation,
        node: usize,
        request: &Request,
        begun: &mut bool,
    ) -> Answer {
        let Client { world, asker, number, .. } = self;
        let name = &world.places[node].name;
        let answer = world.asking(node, || {
            if !std::mem::replace(begun, true) {
                world.invoke(*number, of.f, of.value.clone(), name);
            }
            asker.ask(node, request)
        });
        if let Some(end) = asker.stream_end() {
            *lock(&world.ends).entry(end.to_owned()).or_default() += 1;
            if world.roams && world.is_gentle && end == NO_WORD {
                world.complain(format!("{name} ended a stream {end}: {answer:?}"));
            }
        }
        answer
    }

    fn end(&mut self, of: &Invocation, step: Step, node: usize, begun: bool) -> Type {
        let (world, number, name) = (self.world, self.number, &self.world.places[node].name);
        let name = self.asker.served().filter(|_| world.roams && begun).unwrap_or(name);
        if !begun {
            world.invoke(number, of.f, of.value.clone(), name);
        }
        let (kind, value, error) = match step {
            Step::Ok(value) => (Type::Ok, value, None),
            Step::Fail(why) => (Type::Fail, of.value.clone(), Some(why)),
            Step::Info(why) => (Type::Info, of.value.clone(), Some(why)),
            Step::Ask(..) => (Type::Info, of.value.clone(), Some("it asks without end".into())),
        };
        world.end(number, kind, (of.f, value), error, name);
        kind
    }

    fn place(&mut self, place: Place) -> usize {
        let nodes = self.world.places.len();
        match place {
            Place::Elsewhere if nodes > 1 => (self.home + 1 + self.random.below(nodes - 1)) % nodes,
            _ => self.home,
        }
    }
}

/// What two attempts at one request come to: what the second refuses the first may have done.
fn either(first: Answer, second: Answer) -> Answer {
    match (&first, second) {
        (Answer::Lost(_), Answer::Refused(_)) => first,
        (_, second) => second,
    }
}

/// How long after one operation the next is due: exponential around its mean.
fn gap(rate: f64, random: &mut Random) -> Duration {
    let even = (random.bits() >> 11) as f64 / (1u64 << 53) as f64;
    Duration::from_secs_f64((-(1.0 - even).ln() / rate).min(60.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_does_not_tell_what_became_of_the_attempt_before_it() {
        let (lost, refused) = (Answer::Lost("l".into()), Answer::Refused("r".into()));
        assert_eq!(either(lost.clone(), refused.clone()), lost);
        assert_eq!(either(refused.clone(), lost.clone()), lost);
        assert_eq!(either(refused.clone(), refused.clone()), refused);
    }

    #[test]
    fn gaps_are_exponential_around_their_mean() {
        let mut random = Random::new(5);
        let gaps: Vec<f64> = (0..10_000).map(|_| gap(10.0, &mut random).as_secs_f64()).collect();
        let mean = gaps.iter().sum::<f64>() / gaps.len() as f64;
        assert!((0.095..0.105).contains(&mean), "{mean}");
        let above = gaps.iter().filter(|gap| **gap > mean).count();
        assert!((3_500..3_900).contains(&above), "{above}: a share of 1/e is above the mean");
    }
}
