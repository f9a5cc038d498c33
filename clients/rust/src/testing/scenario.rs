//! Given these events, when this command comes, then those events follow: the rules of an aggregate, without a store.

use std::fmt::Debug;

use crate::aggregate::{Aggregate, Decide};

/// An aggregate to which something has happened.
///
/// ```
/// # use annals_client::aggregate::{Aggregate, Decide};
/// # use serde::{Deserialize, Serialize};
/// use annals_client::testing::Scenario;
/// # #[derive(Debug, PartialEq, Serialize, Deserialize)]
/// # #[serde(tag = "type", content = "data")]
/// # enum AccountEvent { Deposited { amount: u64 }, Withdrawn { amount: u64 } }
/// # use AccountEvent::{Deposited, Withdrawn};
/// # #[derive(Debug, Default)]
/// # struct Account { balance: u64 }
/// # impl Aggregate for Account {
/// #     const CATEGORY: &'static str = "Account";
/// #     type Event = AccountEvent;
/// #     fn apply(&mut self, event: &AccountEvent) {
/// #         match event {
/// #             Deposited { amount } => self.balance += amount,
/// #             Withdrawn { amount } => self.balance -= amount,
/// #         }
/// #     }
/// # }
/// # #[derive(Debug, PartialEq, thiserror::Error)]
/// # #[error("only {left} is left")]
/// # struct Overdrawn { left: u64 }
/// # struct Withdraw { amount: u64 }
/// # impl Decide<Account> for Withdraw {
/// #     type Error = Overdrawn;
/// #     fn aggregate_id(&self) -> String { "1".into() }
/// #     fn decide(&self, account: &Account) -> Result<Vec<AccountEvent>, Overdrawn> {
/// #         match account.balance {
/// #             left if left < self.amount => Err(Overdrawn { left }),
/// #             _ => Ok(vec![Withdrawn { amount: self.amount }]),
/// #         }
/// #     }
/// # }
///
/// let account = || Scenario::<Account>::given([Deposited { amount: 10 }]);
/// account()
///     .when(&Withdraw { amount: 6 })
///     .then([Withdrawn { amount: 6 }])
///     .then_state(|account| assert_eq!(account.balance, 4));
/// account().when(&Withdraw { amount: 11 }).then_refused(&Overdrawn { left: 10 });
/// ```
#[derive(Debug, Default)]
#[must_use = "nothing is tested before `when`"]
pub struct Scenario<A> {
    aggregate: A,
}

/// What a command has come to: [`Scenario::when`].
#[derive(Debug)]
#[must_use = "nothing is tested before `then`"]
pub struct Decided<A: Aggregate, E> {
    aggregate: A,
    decided: Result<Vec<A::Event>, E>,
}

/// An aggregate after a command that was accepted: [`Decided::then`].
#[derive(Debug)]
pub struct Outcome<A> {
    aggregate: A,
}

impl<A: Aggregate> Scenario<A> {
    /// Nothing has happened.
    pub fn new() -> Self {
        Self { aggregate: A::default() }
    }

    /// These events have happened, in this order.
    pub fn given(events: impl IntoIterator<Item = A::Event>) -> Self {
        let mut scenario = Self::new();
        events.into_iter().for_each(|event| scenario.aggregate.apply(&event));
        scenario
    }

    /// A command is decided; the events that follow have happened, too.
    pub fn when<C: Decide<A>>(mut self, command: &C) -> Decided<A, C::Error> {
        let decided = command.decide(&self.aggregate);
        for event in decided.iter().flatten() {
            self.aggregate.apply(event);
        }
        Decided { aggregate: self.aggregate, decided }
    }
}

impl<A: Aggregate, E: Debug> Decided<A, E>
where
    A::Event: Debug + PartialEq,
{
    /// These events follow, and no others. The aggregate goes on.
    ///
    /// # Panics
    /// If it is otherwise.
    #[track_caller]
    pub fn then(self, events: impl IntoIterator<Item = A::Event>) -> Outcome<A> {
        let expected: Vec<_> = events.into_iter().collect();
        match self.decided {
            Ok(events) => assert_eq!(events, expected, "what follows from the command"),
            Err(refusal) => panic!("the command was refused: {refusal:?}; expected {expected:?}"),
        }
        Outcome { aggregate: self.aggregate }
    }

    /// It is refused, for this reason.
    ///
    /// # Panics
    /// If it is otherwise.
    #[track_caller]
    pub fn then_refused(self, reason: &E)
    where
        E: PartialEq,
    {
        match self.decided {
            Err(refusal) => assert_eq!(&refusal, reason, "why the command is refused"),
            Ok(events) => panic!("the command was not refused: {events:?}; expected {reason:?}"),
        }
    }
}

impl<A: Aggregate> Outcome<A> {
    /// The state is as the function wants it.
    #[track_caller]
    pub fn then_state(self, look: impl FnOnce(&A)) {
        look(&self.aggregate);
    }

    /// The next command is decided.
    pub fn when<C: Decide<A>>(self, command: &C) -> Decided<A, C::Error> {
        Scenario { aggregate: self.aggregate }.when(command)
    }
}
