//! Which documents to find, and in which order.

use prost_types::value::Kind;

use crate::proto::{self, JsonOperator};

/// Which documents to find: those that match every comparison, each with an indexed field.
///
/// ```
/// # use annals_client::{NewEvent, read_model::ModelWrites, testing::TestStore}; use serde_json::{Value, json};
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> annals_client::Result<()> {
/// # let store = TestStore::start().await; let client = store.client();
/// # let event = client.append("Payment-1", 0, [NewEvent::new("PaymentProcessed")]).await?;
/// # let payments = client.read_model("payments"); payments.create(&[&["amount"]]).await?;
/// # let writes = ModelWrites::new().upsert("a", &json!({"amount": 250}))?;
/// # let writes = writes.upsert("b", &json!({"amount": 1250}))?;
/// # payments.apply(0, event.position, writes).await?;
/// use annals_client::read_model::Find;
///
/// let large = Find::new().at_least("amount", 300).order_by("amount").descending();
/// let found = payments.find::<Value>(large).await?;
/// assert_eq!((found.documents.len(), found.documents[0].key.as_str()), (1, "b"));
/// # Ok(()) }
/// ```
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Find {
    pub(super) matches: Vec<proto::FieldMatch>,
    pub(super) order_by: String,
    pub(super) descending: bool,
    pub(super) page_size: u32,
    pub(super) page_token: String,
}

/// A value that a field is compared with.
///
/// ```
/// use annals_client::read_model::{Find, Scalar};
///
/// assert_eq!(Scalar::from(5), Scalar::from(5.0));
/// assert_eq!(Find::new().equals("a", 5), Find::new().equals("a", Scalar::from(5)));
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct Scalar(Kind);

impl From<&str> for Scalar {
    fn from(text: &str) -> Self {
        Self(Kind::StringValue(text.to_owned()))
    }
}

impl From<String> for Scalar {
    fn from(text: String) -> Self {
        Self(Kind::StringValue(text))
    }
}

impl From<bool> for Scalar {
    fn from(it: bool) -> Self {
        Self(Kind::BoolValue(it))
    }
}

impl From<f64> for Scalar {
    fn from(number: f64) -> Self {
        Self(Kind::NumberValue(number))
    }
}

impl From<i32> for Scalar {
    fn from(number: i32) -> Self {
        Self(Kind::NumberValue(number.into()))
    }
}

impl Find {
    /// Every document.
    pub fn new() -> Self {
        Self::default()
    }

    fn compare(mut self, field: &str, operator: JsonOperator, value: impl Into<Scalar>) -> Self {
        self.matches.push(proto::FieldMatch {
            field: field.to_owned(),
            operator: operator.into(),
            value: Some(prost_types::Value { kind: Some(value.into().0) }),
        });
        self
    }

    /// Whose field is this.
    #[must_use]
    pub fn equals(self, field: &str, value: impl Into<Scalar>) -> Self {
        self.compare(field, JsonOperator::Equals, value)
    }

    /// Whose field is this or more.
    #[must_use]
    pub fn at_least(self, field: &str, value: impl Into<Scalar>) -> Self {
        self.compare(field, JsonOperator::GreaterOrEqual, value)
    }

    /// Whose field is more than this.
    #[must_use]
    pub fn above(self, field: &str, value: impl Into<Scalar>) -> Self {
        self.compare(field, JsonOperator::Greater, value)
    }

    /// Whose field is this or less.
    #[must_use]
    pub fn at_most(self, field: &str, value: impl Into<Scalar>) -> Self {
        self.compare(field, JsonOperator::LessOrEqual, value)
    }

    /// Whose field is less than this.
    #[must_use]
    pub fn below(self, field: &str, value: impl Into<Scalar>) -> Self {
        self.compare(field, JsonOperator::Less, value)
    }

    /// In the order of this field's values.
    #[must_use]
    pub fn order_by(mut self, field: &str) -> Self {
        field.clone_into(&mut self.order_by);
        self
    }

    /// The other way round.
    #[must_use]
    pub fn descending(mut self) -> Self {
        self.descending = true;
        self
    }

    /// At most so many on a page: 1 to 1000, 100 where nothing is said.
    #[must_use]
    pub fn page_size(mut self, documents: u32) -> Self {
        self.page_size = documents;
        self
    }

    /// The page that [`Found::next_page_token`](super::Found::next_page_token) is for.
    #[must_use]
    pub fn page_token(mut self, token: impl Into<String>) -> Self {
        self.page_token = token.into();
        self
    }
}
