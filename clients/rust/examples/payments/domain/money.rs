//! Amounts of money: whole minor units (cents) of a currency that ISO 4217 knows.

use std::fmt;

use iso_currency::Currency;
use serde::{Deserialize, Serialize};

/// An amount of one currency.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Money {
    /// In the currency's minor units: cents for EUR, yen for JPY.
    pub amount: u64,
    /// An ISO 4217 code.
    pub currency: Currency,
}

/// Why something is no amount to pay.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MoneyError {
    #[error("`{0}` is no currency that ISO 4217 knows")]
    UnknownCurrency(String),
    #[error("{0} has no minor units to pay with (funds, metals and test codes have none)")]
    NotPayable(&'static str),
    #[error("the amount must be more than 0")]
    NotPositive,
    #[error("`{0}` is no amount such as 12 or 12.50")]
    NotANumber(String),
    #[error("{currency} has {digits} digits after the point, `{text}` has more")]
    TooPrecise { text: String, currency: &'static str, digits: usize },
}

impl Money {
    /// So many minor units, more than 0, of the currency with this code.
    pub fn new(amount: u64, currency: &str) -> Result<Self, MoneyError> {
        let currency = payable(currency)?;
        match amount {
            0 => Err(MoneyError::NotPositive),
            amount => Ok(Self { amount, currency }),
        }
    }

    /// An amount as people write it: `12`, `12.5`, `12.50`.
    pub fn parse(text: &str, currency: &str) -> Result<Self, MoneyError> {
        let known = payable(currency)?;
        let digits = usize::from(known.exponent().unwrap_or_default());
        let not_a_number = || MoneyError::NotANumber(text.to_owned());
        let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
        let is_digits = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
        if whole.is_empty() || !is_digits(whole) || !is_digits(fraction) || text.ends_with('.') {
            return Err(not_a_number());
        }
        if fraction.len() > digits {
            let text = text.to_owned();
            return Err(MoneyError::TooPrecise { text, currency: known.code(), digits });
        }
        let minor = format!("{whole}{fraction:0<digits$}");
        Self::new(minor.parse().map_err(|_| not_a_number())?, currency)
    }
}

/// So many minor units of the currency with this code, for people.
pub fn shown(amount: u64, currency: &str) -> String {
    match Currency::from_code(currency) {
        Some(currency) => Money { amount, currency }.to_string(),
        None => format!("{amount} {currency}"),
    }
}

/// A currency in which something can be paid.
fn payable(code: &str) -> Result<Currency, MoneyError> {
    let currency =
        Currency::from_code(code).ok_or_else(|| MoneyError::UnknownCurrency(code.to_owned()))?;
    match currency.exponent() {
        Some(_) if !currency.is_special() => Ok(currency),
        _ => Err(MoneyError::NotPayable(currency.code())),
    }
}

impl fmt::Display for Money {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = usize::from(self.currency.exponent().unwrap_or_default());
        let unit = 10_u64.pow(u32::try_from(digits).unwrap_or_default());
        write!(f, "{}", self.amount / unit)?;
        if digits > 0 {
            write!(f, ".{:0digits$}", self.amount % unit)?;
        }
        write!(f, " {}", self.currency.code())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_minor_units_of_a_known_currency() {
        for (text, currency, amount, shown) in [
            ("12.50", "EUR", 1250, "12.50 EUR"),
            ("12.5", "USD", 1250, "12.50 USD"),
            ("0.01", "EUR", 1, "0.01 EUR"),
            ("700", "JPY", 700, "700 JPY"),
            ("1.234", "KWD", 1234, "1.234 KWD"),
        ] {
            let money = Money::parse(text, currency).unwrap();
            assert_eq!((money.amount, money.to_string().as_str()), (amount, shown));
        }
    }

    #[test]
    fn what_is_no_amount_is_refused() {
        for (text, currency) in [
            ("0", "EUR"),
            ("0.00", "EUR"),
            ("-1", "EUR"),
            ("", "EUR"),
            (".5", "EUR"),
            ("5.", "EUR"),
            ("1e3", "EUR"),
            ("1.005", "EUR"),
            ("1.5", "JPY"),
            ("99999999999999999999", "EUR"),
            ("1", "EURO"),
            ("1", "eur"),
            ("1", "XAU"),
            ("1", "XXX"),
        ] {
            assert!(Money::parse(text, currency).is_err(), "{text} {currency}");
        }
    }
}
