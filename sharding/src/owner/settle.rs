//! What comes back to an owner: commits, lost proposals, word from a majority, time.

use atoll_store::dot::Millis;
use atoll_store::owned::{Applied, Name};

use super::entity::Replies;
use super::work::Request;
use super::{Owner, Reply};

impl Owner {
    /// Answers a request that proposes nothing: at once, or when what it was decided on is certain.
    pub(super) fn refuse(&mut self, name: &Name, request: Request, reply: Reply, at_once: bool) {
        let Some(seat) = self.seats.get_mut(name) else { return };
        // Who waits for the same key has its own turn now, or the same answer if it counted.
        let mut replies = seat.follow(&request, &reply);
        match at_once {
            true => replies.push((request.ticket, reply)),
            false => seat.hold(&request, reply),
        }
        self.tell(replies);
    }

    fn tell(&mut self, replies: Replies) {
        replies.into_iter().for_each(|(ticket, reply)| self.reply(ticket, reply));
    }

    /// Asks a majority, if a refusal of this entity waits for that alone.
    pub(super) fn ask_round(&mut self, name: &Name) {
        let round = self.next + 1;
        if self.seats.get_mut(name).is_some_and(|seat| seat.wants_round(round)) {
            self.next = round;
            self.asked.insert(round, name.clone());
            self.out.confirm = Some(round);
        }
    }

    pub(super) fn confirmed(&mut self, round: u64) {
        let later = self.asked.split_off(&round.saturating_add(1));
        for (_, name) in std::mem::replace(&mut self.asked, later) {
            let Some(seat) = self.seats.get_mut(&name) else { continue };
            let replies = seat.confirmed(round);
            self.tell(replies);
        }
    }

    pub(super) fn applied(&mut self, applied: &Applied) {
        // Entries of other terms are somebody else's, whatever their number.
        if self.term != Some(applied.term) {
            return;
        }
        let outcome = applied.void.map_or(Ok(()), |_| Err(Reply::NoOwner));
        self.land(applied.entry.number, outcome);
    }

    /// What was proposed under a number is not to be expected any more.
    pub(super) fn gone(&mut self, number: u64, reply: Reply) {
        self.land(number, Err(reply));
    }

    fn land(&mut self, number: u64, outcome: Result<(), Reply>) {
        let Some(name) = self.flying.remove(&number) else { return };
        let Some(seat) = self.seats.get_mut(&name) else { return };
        let replies = seat.land(number, outcome);
        self.tell(replies);
        self.pump(&name);
    }

    /// Keeps the state of an entity, if so many events followed its last snapshot.
    pub(super) fn snapshot(&mut self, name: &Name, every: u64) {
        let found = self.seats.get_mut(name).and_then(|seat| seat.snapshot(every));
        if let Some((base, body)) = found {
            self.propose(name, base, body, None);
        }
    }

    pub(super) fn tick(&mut self) {
        let now = self.now;
        let names: Vec<Name> = self.seats.keys().cloned().collect();
        for name in names {
            let Some(seat) = self.seats.get_mut(&name) else { continue };
            let replies = seat.expire(now);
            self.tell(replies);
            self.pump(&name);
        }
        self.passivate();
    }

    /// Lets go of entities that nobody asks: of those that were asked long ago, and of the oldest
    /// where there are too many. One with events after its snapshot gets a snapshot first.
    fn passivate(&mut self) {
        let now = self.now;
        let idle = |(name, seat): (&Name, &super::Seat)| {
            seat.idle_since(now).map(|since| (since, name.clone()))
        };
        let mut idle: Vec<(Millis, Name)> = self.seats.iter().filter_map(idle).collect();
        idle.sort();
        let mut bytes: usize = self.seats.values().map(super::Seat::bytes).sum();
        for (since, name) in idle {
            let old = since.saturating_add(self.config.idle_ms) <= now;
            if !old && bytes <= self.config.cache_bytes {
                break;
            }
            bytes -= self.seats.get(&name).map_or(0, super::Seat::bytes);
            let before = self.next;
            self.snapshot(&name, 1);
            if self.next == before {
                self.seats.remove(&name);
            }
        }
    }
}
