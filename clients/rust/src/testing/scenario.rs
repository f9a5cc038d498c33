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
///
/// ```
/// # use annals_client::{aggregate::Decide, testing::Scenario};
/// # #[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
/// # #[serde(tag = "type", content = "data")]
/// # enum AccountEvent { Deposited { amount: u64 }, Withdrawn { amount: u64 } }
/// # use AccountEvent::{Deposited, Withdrawn};
/// # #[derive(Debug, Default, serde::Serialize, serde::Deserialize)]
/// # struct Account { balance: u64 }
/// # impl annals_client::aggregate::Aggregate for Account {
/// #     const CATEGORY: &'static str = "Account";
/// #     type Event = AccountEvent;
/// #     fn apply(&mut self, event: &AccountEvent) {
/// #         match event {
/// #             AccountEvent::Deposited { amount } => self.balance += amount,
/// #             AccountEvent::Withdrawn { amount } => self.balance -= amount,
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
/// let decided = Scenario::<Account>::given([Deposited { amount: 10 }]).when(&Withdraw { amount: 6 });
/// decided.then([Withdrawn { amount: 6 }]);
///
/// let decided = Scenario::<Account>::given([]).when(&Withdraw { amount: 6 });
/// decided.then_refused(&Overdrawn { left: 0 });
/// ```
#[derive(Debug)]
#[must_use = "nothing is tested before `then`"]
pub struct Decided<A: Aggregate, E> {
    aggregate: A,
    decided: Result<Vec<A::Event>, E>,
}

/// An aggregate after a command that was accepted: [`Decided::then`].
///
/// ```
/// # use annals_client::{aggregate::Decide, testing::Scenario};
/// # #[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
/// # #[serde(tag = "type", content = "data")]
/// # enum AccountEvent { Deposited { amount: u64 }, Withdrawn { amount: u64 } }
/// # use AccountEvent::{Deposited, Withdrawn};
/// # #[derive(Debug, Default, serde::Serialize, serde::Deserialize)]
/// # struct Account { balance: u64 }
/// # impl annals_client::aggregate::Aggregate for Account {
/// #     const CATEGORY: &'static str = "Account";
/// #     type Event = AccountEvent;
/// #     fn apply(&mut self, event: &AccountEvent) {
/// #         match event {
/// #             AccountEvent::Deposited { amount } => self.balance += amount,
/// #             AccountEvent::Withdrawn { amount } => self.balance -= amount,
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
/// let outcome = Scenario::<Account>::given([Deposited { amount: 10 }])
///     .when(&Withdraw { amount: 6 })
///     .then([Withdrawn { amount: 6 }]);
/// outcome.when(&Withdraw { amount: 5 }).then_refused(&Overdrawn { left: 4 });
/// ```
#[derive(Debug)]
pub struct Outcome<A> {
    aggregate: A,
}

impl<A: Aggregate> Scenario<A> {
    /// Nothing has happened.
    ///
    /// ```
    /// # use annals_client::{aggregate::Decide, testing::Scenario};
    /// # #[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
    /// # #[serde(tag = "type", content = "data")]
    /// # enum AccountEvent { Deposited { amount: u64 }, Withdrawn { amount: u64 } }
    /// # use AccountEvent::Withdrawn;
    /// # #[derive(Debug, Default, serde::Serialize, serde::Deserialize)]
    /// # struct Account { balance: u64 }
    /// # impl annals_client::aggregate::Aggregate for Account {
    /// #     const CATEGORY: &'static str = "Account";
    /// #     type Event = AccountEvent;
    /// #     fn apply(&mut self, event: &AccountEvent) {
    /// #         match event {
    /// #             AccountEvent::Deposited { amount } => self.balance += amount,
    /// #             AccountEvent::Withdrawn { amount } => self.balance -= amount,
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
    /// let account = Scenario::<Account>::new();
    /// account.when(&Withdraw { amount: 1 }).then_refused(&Overdrawn { left: 0 });
    /// ```
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
    /// ```should_panic
    /// # use annals_client::{aggregate::Decide, testing::Scenario};
    /// # #[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
    /// # #[serde(tag = "type", content = "data")]
    /// # enum AccountEvent { Deposited { amount: u64 }, Withdrawn { amount: u64 } }
    /// # use AccountEvent::{Deposited, Withdrawn};
    /// # #[derive(Debug, Default, serde::Serialize, serde::Deserialize)]
    /// # struct Account { balance: u64 }
    /// # impl annals_client::aggregate::Aggregate for Account {
    /// #     const CATEGORY: &'static str = "Account";
    /// #     type Event = AccountEvent;
    /// #     fn apply(&mut self, event: &AccountEvent) {
    /// #         match event {
    /// #             AccountEvent::Deposited { amount } => self.balance += amount,
    /// #             AccountEvent::Withdrawn { amount } => self.balance -= amount,
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
    /// let account = Scenario::<Account>::given([Deposited { amount: 10 }]);
    /// account.when(&Withdraw { amount: 6 }).then([Withdrawn { amount: 7 }]); // It was 6.
    /// ```
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
    /// ```should_panic
    /// # use annals_client::{aggregate::Decide, testing::Scenario};
    /// # #[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
    /// # #[serde(tag = "type", content = "data")]
    /// # enum AccountEvent { Deposited { amount: u64 }, Withdrawn { amount: u64 } }
    /// # use AccountEvent::{Deposited, Withdrawn};
    /// # #[derive(Debug, Default, serde::Serialize, serde::Deserialize)]
    /// # struct Account { balance: u64 }
    /// # impl annals_client::aggregate::Aggregate for Account {
    /// #     const CATEGORY: &'static str = "Account";
    /// #     type Event = AccountEvent;
    /// #     fn apply(&mut self, event: &AccountEvent) {
    /// #         match event {
    /// #             AccountEvent::Deposited { amount } => self.balance += amount,
    /// #             AccountEvent::Withdrawn { amount } => self.balance -= amount,
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
    /// let account = Scenario::<Account>::given([Deposited { amount: 10 }]);
    /// account.when(&Withdraw { amount: 6 }).then_refused(&Overdrawn { left: 10 }); // It is accepted.
    /// ```
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
    ///
    /// ```
    /// # use annals_client::{aggregate::Decide, testing::Scenario};
    /// # #[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
    /// # #[serde(tag = "type", content = "data")]
    /// # enum AccountEvent { Deposited { amount: u64 }, Withdrawn { amount: u64 } }
    /// # use AccountEvent::{Deposited, Withdrawn};
    /// # #[derive(Debug, Default, serde::Serialize, serde::Deserialize)]
    /// # struct Account { balance: u64 }
    /// # impl annals_client::aggregate::Aggregate for Account {
    /// #     const CATEGORY: &'static str = "Account";
    /// #     type Event = AccountEvent;
    /// #     fn apply(&mut self, event: &AccountEvent) {
    /// #         match event {
    /// #             AccountEvent::Deposited { amount } => self.balance += amount,
    /// #             AccountEvent::Withdrawn { amount } => self.balance -= amount,
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
    /// Scenario::<Account>::given([Deposited { amount: 10 }])
    ///     .when(&Withdraw { amount: 6 })
    ///     .then([Withdrawn { amount: 6 }])
    ///     .then_state(|account| assert_eq!(account.balance, 4));
    /// ```
    #[track_caller]
    pub fn then_state(self, look: impl FnOnce(&A)) {
        look(&self.aggregate);
    }

    /// The next command is decided.
    pub fn when<C: Decide<A>>(self, command: &C) -> Decided<A, C::Error> {
        Scenario { aggregate: self.aggregate }.when(command)
    }
}
