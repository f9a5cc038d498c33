//! A consumer that does all that it should not, and writes down what it sees and says.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use annals::wire::proto::v1::{
    ConsumeStart, Nack, NackAction, consume_request::Message as Says, consume_response::Message,
};
use tokio::time::Instant;

use super::{
    checker::{Fact, Outcome},
    run::{Group, Life},
};
use crate::support::{
    consumer::{Consumer, Groups, consumer, millis, unpack},
    dice::Dice,
    endpoint,
};

/// Comes again and again, until the run is over.
pub async fn consume(group: Arc<Group>, mut dice: Dice) {
    let mut lives = group.run.life.subscribe();
    loop {
        let life = tokio::select! {
            biased;
            () = group.run.over.cancelled() => return,
            life = lives.wait_for(|life| life.address.is_some()) => *life.unwrap(),
        };
        if !connected(&group, life, &mut dice).await {
            let gone = lives.wait_for(|now| now.number != life.number);
            tokio::select! {
                () = group.run.over.cancelled() => return,
                _ = gone => {}
            }
        }
    }
}

/// A call.
struct Call<'a> {
    group: &'a Group,
    life: u32,
    id: u64,
    consumer: Consumer,
    /// What is to be acked later, and when.
    later: Vec<(Instant, u64)>,
    /// It hangs until then.
    hangs_until: Option<Instant>,
}

/// From the connection to its end; false where the server is gone.
async fn connected(group: &Group, life: Life, dice: &mut Dice) -> bool {
    // Relaxed: it only gives out numbers.
    let id = group.run.connections.fetch_add(1, Ordering::Relaxed);
    let Life { number: life, address } = life;
    let refused = |what: &dyn std::fmt::Display| {
        assert!(!group.lives(life), "{}: the server lives, and refuses: {what}", group.name);
        false
    };
    let channel = match endpoint(address.unwrap()).connect().await {
        Ok(channel) => channel,
        Err(error) => return refused(&error),
    };
    let in_flight_max = u32::try_from(dice.below(6)).unwrap();
    let start = ConsumeStart { in_flight_max, ..consumer(&group.name, &format!("{id}")) };
    let consumer = match Groups::new(channel).consume(start).await {
        Ok(consumer) => consumer,
        Err(status) => return refused(&status),
    };
    let mut call = Call { group, life, id, consumer, later: Vec::new(), hangs_until: None };
    loop {
        let due = call.later.iter().map(|(due, _)| *due).chain(call.hangs_until).min();
        let goes_on = tokio::select! {
            () = group.run.over.cancelled() => call.close(),
            message = call.consumer.next_or_heartbeat() => match message {
                Ok(message) => call.hear(message, dice).await,
                Err(status) => return refused(&status),
            },
            () = tokio::time::sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {
                call.act().await
            }
        };
        if !goes_on {
            return call.group.lives(life);
        }
    }
}

impl Call<'_> {
    fn note(&self, fact: Fact) -> bool {
        self.group.note(self.life, fact)
    }

    /// Ends, as a crash does: nothing is said.
    fn close(&self) -> bool {
        let _ = self.note(Fact::Closed { consumer: self.id });
        false
    }

    /// Says what became of some events; false where nobody is there any more to hear it.
    async fn say(&self, positions: Vec<u64>, outcome: Outcome, dice: Option<&mut Dice>) -> bool {
        for position in &positions {
            if !self.note(Fact::Said { consumer: self.id, position: *position, outcome }) {
                return false;
            }
        }
        let action = match outcome {
            Outcome::Ack if positions.is_empty() => return true,
            Outcome::Ack => {
                self.consumer.ack(positions).await;
                return true;
            }
            Outcome::Skip => NackAction::Skip,
            Outcome::Park => NackAction::Park,
            Outcome::Retry => NackAction::Retry,
        };
        let wait = dice.and_then(|dice| dice.once_in(2).then(|| dice.below(40)));
        let nack = Nack {
            positions,
            action: action.into(),
            reason: "chaos".to_owned(),
            retry_after: wait.map(|wait| millis(i32::try_from(wait).unwrap())),
        };
        self.consumer.say(Says::Nack(nack)).await;
        true
    }

    async fn hear(&mut self, message: Message, dice: &mut Dice) -> bool {
        match message {
            Message::Confirmed(_) => panic!("it was confirmed"),
            Message::NotInFlight(told) => told
                .positions
                .into_iter()
                .all(|position| self.note(Fact::Refused { consumer: self.id, position })),
            Message::Heartbeat(_) => {
                if self.hangs_until.is_none() {
                    self.consumer.heartbeat().await;
                }
                true
            }
            Message::Events(events) => {
                let mut now = Vec::new();
                for delivered in unpack(events) {
                    let position = delivered.event.position;
                    let (life, deliveries) = (self.life, delivered.deliveries);
                    if !self.group.note_delivery(life, self.id, &delivered.event, deliveries)
                        || !self.decide(position, &mut now, dice).await
                    {
                        return false;
                    }
                }
                self.say(now, Outcome::Ack, None).await
            }
        }
    }

    async fn decide(&mut self, position: u64, now: &mut Vec<u64>, dice: &mut Dice) -> bool {
        let calm = self.group.run.busy.is_cancelled();
        let times_out = self.group.rules.timeout.is_some();
        let after = |millis: u64| Instant::now() + Duration::from_millis(millis);
        if let Some(until) = self.hangs_until {
            // Some are acked when it wakes up, and some are forgotten.
            if calm || dice.once_in(2) {
                self.later.push((until, position));
            }
            return true;
        }
        match if calm { 100 } else { dice.below(100) } {
            0..=7 => self.later.push((after(1 + dice.below(40)), position)),
            8..=9 if times_out => self.later.push((after(350 + dice.below(200)), position)),
            10..=11 if times_out => {
                self.hangs_until = Some(after(400 + dice.below(200)));
                self.later.push((after(600), position));
            }
            12..=18 => return self.say(vec![position], Outcome::Retry, Some(dice)).await,
            19..=22 => return self.say(vec![position], Outcome::Park, None).await,
            23..=25 => return self.say(vec![position], Outcome::Skip, None).await,
            26..=27 => return self.close(),
            _ => now.push(position),
        }
        true
    }

    /// What is due.
    async fn act(&mut self) -> bool {
        let now = Instant::now();
        if self.hangs_until.is_some_and(|until| until <= now) {
            self.hangs_until = None;
            self.consumer.heartbeat().await;
        }
        if let Some(until) = self.hangs_until {
            // Whoever hangs says nothing, late or not.
            for (due, _) in &mut self.later {
                *due = (*due).max(until);
            }
            return true;
        }
        let (due, later) = self.later.drain(..).partition(|(due, _)| *due <= now);
        self.later = later;
        let due: Vec<(Instant, u64)> = due;
        self.say(due.into_iter().map(|(_, position)| position).collect(), Outcome::Ack, None).await
    }
}
