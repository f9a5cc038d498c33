//! The account of the tests: money comes and goes, and never more than there is.

use annals_client::{
    aggregate::{Aggregate, Decide, Snapshot},
    bus::{Command, CommandEnvelope, Violation},
};
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", content = "data")]
pub enum AccountEvent {
    Opened,
    Deposited { amount: u64 },
    Withdrawn { amount: u64, by: String },
}

#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Account {
    pub balance: u64,
}

#[derive(Debug, PartialEq, thiserror::Error)]
#[error("only {left} is left")]
pub struct Overdrawn {
    pub left: u64,
}

impl Aggregate for Account {
    const CATEGORY: &'static str = "Account";
    type Event = AccountEvent;

    fn apply(&mut self, event: &AccountEvent) {
        match event {
            AccountEvent::Opened => {}
            AccountEvent::Deposited { amount } => self.balance += amount,
            AccountEvent::Withdrawn { amount, .. } => self.balance -= amount,
        }
    }
}

impl Account {
    pub fn withdraw(&self, amount: u64, by: &str) -> Result<Vec<AccountEvent>, Overdrawn> {
        match self.balance.checked_sub(amount) {
            Some(_) => Ok(vec![AccountEvent::Withdrawn { amount, by: by.to_owned() }]),
            None => Err(Overdrawn { left: self.balance }),
        }
    }
}

impl Snapshot for Account {
    const SCHEMA: u32 = 1;
}

pub struct Deposit {
    pub account: String,
    pub amount: u64,
}

/// A deposit of 10 to account 1.
pub fn deposit() -> CommandEnvelope {
    CommandEnvelope::new(Deposit { account: "1".to_owned(), amount: 10 })
}

impl Command for Deposit {
    const NAME: &'static str = "Deposit";

    fn validate(&self) -> Vec<Violation> {
        match self.amount {
            0 => vec![Violation::new("amount", "must be more than 0")],
            _ => Vec::new(),
        }
    }
}

impl Decide<Account> for Deposit {
    type Error = Overdrawn;

    fn aggregate_id(&self) -> String {
        self.account.clone()
    }

    fn decide(&self, _: &Account) -> Result<Vec<AccountEvent>, Overdrawn> {
        Ok(vec![AccountEvent::Deposited { amount: self.amount }])
    }
}

pub struct Withdraw {
    pub account: String,
    pub amount: u64,
    pub by: String,
}

impl Command for Withdraw {
    const NAME: &'static str = "Withdraw";
}

impl Decide<Account> for Withdraw {
    type Error = Overdrawn;

    fn aggregate_id(&self) -> String {
        self.account.clone()
    }

    fn decide(&self, account: &Account) -> Result<Vec<AccountEvent>, Overdrawn> {
        account.withdraw(self.amount, &self.by)
    }
}
