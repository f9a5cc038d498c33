//! Which index answers a question, and where in it the answers lie.

use super::{
    document::{FieldPath, Object},
    order,
};
use crate::core::filter::json::{Operator, Scalar};

/// What an indexed field must say.
#[derive(Debug, Clone, PartialEq)]
pub struct FieldMatch {
    pub field: FieldPath,
    pub operator: Operator,
    pub value: Scalar,
}

impl FieldMatch {
    /// Whether a document says so.
    pub fn holds(&self, document: &mut Object<'_>) -> bool {
        let mut value = Vec::new();
        if order::put_value(&mut value, document.value_of(&self.field)).is_err() {
            return false;
        }
        let (from, before) = bounds(std::slice::from_ref(&self));
        from.as_slice() <= value.as_slice() && value < before
    }
}

/// Where values lie that all of `matches`, of one field, allow: from, and before.
fn bounds(matches: &[&FieldMatch]) -> (Vec<u8>, Vec<u8>) {
    let (mut from, mut before) = (Vec::new(), vec![u8::MAX]);
    for FieldMatch { field: _, operator, value } in matches {
        let mut exact = Vec::new();
        order::put_scalar(&mut exact, value);
        let behind = order::behind(&exact).expect("a kind is below 255");
        let (first_of_kind, behind_kind) = order::kind_of(value);
        let (low, high) = match operator {
            Operator::Less => (first_of_kind, exact),
            Operator::LessOrEqual => (first_of_kind, behind),
            Operator::Greater => (behind, behind_kind),
            Operator::GreaterOrEqual => (exact, behind_kind),
            // The edge lets no others through.
            _ => (exact, behind),
        };
        from = from.max(low);
        before = before.min(high);
    }
    (from, before)
}

/// How a question is answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// From this index; `None`: from the documents in the order of their keys.
    pub index: Option<usize>,
    /// Entries from here on.
    pub from: Vec<u8>,
    /// And before this.
    pub before: Vec<u8>,
    /// Which of the matches the index does not answer: they are looked for in each candidate.
    pub rest: Vec<usize>,
}

/// No index answers it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NotIndexed;

/// The best plan: the longest beginning of an index that `matches` compare by EQUALS, then a range. With `order_by` only
/// what gives the documents in its order.
pub fn plan(
    indexes: &[Vec<FieldPath>],
    matches: &[FieldMatch],
    order_by: Option<&FieldPath>,
) -> Result<Plan, NotIndexed> {
    let is_indexed = |field: &FieldPath| indexes.iter().any(|fields| fields.contains(field));
    if !matches.iter().all(|it| is_indexed(&it.field)) {
        return Err(NotIndexed);
    }
    if matches.is_empty() && order_by.is_none() {
        let (from, before) = (Vec::new(), vec![u8::MAX]);
        return Ok(Plan { index: None, from, before, rest: Vec::new() });
    }
    let equal = |field: &FieldPath| {
        matches.iter().position(|it| it.field == *field && it.operator == Operator::Equals)
    };
    let mut best: Option<((usize, bool), Plan)> = None;
    for (index, fields) in indexes.iter().enumerate() {
        let equals: Vec<usize> = fields.iter().map_while(equal).collect();
        let next = fields.get(equals.len());
        let in_order = order_by
            .is_none_or(|field| fields[..equals.len()].contains(field) || next == Some(field));
        let ranged: Vec<usize> =
            (0..matches.len()).filter(|at| next == Some(&matches[*at].field)).collect();
        let narrows = !equals.is_empty() || !ranged.is_empty();
        if !in_order || (order_by.is_none() && !narrows) {
            continue;
        }
        let score = (equals.len(), !ranged.is_empty());
        if best.as_ref().is_some_and(|(other, _)| *other >= score) {
            continue;
        }
        let mut prefix = Vec::new();
        for at in &equals {
            order::put_scalar(&mut prefix, &matches[*at].value);
        }
        let range: Vec<&FieldMatch> = ranged.iter().map(|at| &matches[*at]).collect();
        let (low, high) = bounds(&range);
        let plan = Plan {
            index: Some(index),
            from: [prefix.as_slice(), &low].concat(),
            before: [prefix.as_slice(), &high].concat(),
            rest: (0..matches.len())
                .filter(|at| !equals.contains(at) && !ranged.contains(at))
                .collect(),
        };
        best = Some((score, plan));
    }
    best.map(|(_, plan)| plan).ok_or(NotIndexed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> FieldPath {
        FieldPath::parse(text).unwrap()
    }

    fn it(field: &str, operator: Operator, number: f64) -> FieldMatch {
        FieldMatch { field: path(field), operator, value: Scalar::Number(number) }
    }

    fn chosen(matches: &[FieldMatch], order_by: Option<&str>) -> Result<Option<usize>, NotIndexed> {
        let indexes = [vec![path("a")], vec![path("a"), path("b")], vec![path("c")]];
        let order_by = order_by.map(path);
        plan(&indexes, matches, order_by.as_ref()).map(|plan| plan.index)
    }

    #[test]
    fn the_index_that_narrows_most_and_gives_the_order_is_chosen() {
        use Operator::{Equals, Greater};
        assert_eq!(chosen(&[], None), Ok(None));
        assert_eq!(chosen(&[it("a", Equals, 1.0)], None), Ok(Some(0)));
        assert_eq!(chosen(&[it("a", Equals, 1.0), it("b", Greater, 1.0)], None), Ok(Some(1)));
        assert_eq!(chosen(&[it("a", Equals, 1.0)], Some("b")), Ok(Some(1)));
        assert_eq!(chosen(&[it("a", Equals, 1.0)], Some("c")), Ok(Some(2)));
        assert_eq!(chosen(&[], Some("a")), Ok(Some(0)));
        assert_eq!(chosen(&[], Some("b")), Err(NotIndexed));
        assert_eq!(chosen(&[it("b", Equals, 1.0)], None), Err(NotIndexed));
        assert_eq!(chosen(&[it("x", Equals, 1.0)], None), Err(NotIndexed));
        assert_eq!(chosen(&[it("c", Greater, 1.0), it("b", Equals, 1.0)], None), Ok(Some(2)));
    }

    #[test]
    fn a_comparison_holds_between_values_of_one_kind() {
        let document = r#"{"n":5,"s":"b","z":null}"#;
        let holds = |field: &str, operator, value: Scalar| {
            FieldMatch { field: path(field), operator, value }.holds(&mut Object::of(document))
        };
        assert!(holds("n", Operator::Less, Scalar::Number(6.0)));
        assert!(!holds("n", Operator::Less, Scalar::Number(5.0)));
        assert!(holds("n", Operator::GreaterOrEqual, Scalar::Number(5.0)));
        assert!(!holds("n", Operator::Less, Scalar::Text("z".to_owned())));
        assert!(holds("s", Operator::Greater, Scalar::Text("a".to_owned())));
        assert!(!holds("s", Operator::Greater, Scalar::Number(1.0)));
        assert!(holds("z", Operator::Equals, Scalar::Null));
        assert!(!holds("absent", Operator::Equals, Scalar::Null));
        assert!(!holds("absent", Operator::Less, Scalar::Number(6.0)));
    }
}
