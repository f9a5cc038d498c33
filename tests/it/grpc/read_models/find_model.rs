//! Any Find against a look at every document, after any writes, in memory and across restarts.

use std::path::Path;

use annals::wire::proto::v1::{
    ApplyRequest, DocumentWrite, FieldMatch, FindRequest, JsonOperator,
    JsonOperator::{Equals, Greater, GreaterOrEqual, Less, LessOrEqual, Unspecified},
};
use proptest::{collection::vec, prelude::*, sample::select};
use prost_types::value::Kind;
use tonic::Code;

use super::model::{Plain, assert_same, is_indexed};
use crate::support::{
    TestStore,
    models::{
        Models, NULL, apply, create, delete, find, matches, merge, number, refused, text, upsert,
    },
};

const INDEXES: &[&[&str]] =
    &[&["a", "b", "c.d"], &["b"], &["c.d", "a"], &["b", "a"], &["e", "e.f"]];
const FIELDS: [&str; 6] = ["a", "b", "c.d", "e", "e.f", "none"];

/// The values that a member can have; every kind, and what is hard to order.
const VALUES: [&str; 20] = [
    "null",
    "false",
    "true",
    "-0.0",
    "0",
    "1",
    "1.0",
    "-1",
    "1.5",
    "1e300",
    "-1e300",
    "5e-324",
    r#""""#,
    r#""a""#,
    r#""aa""#,
    r#""b""#,
    r#""\u0000""#,
    r#""é""#,
    "[1]",
    "{}",
];

#[derive(Debug, Clone)]
enum Step {
    Apply(Vec<DocumentWrite>),
    Find(FindRequest),
    /// The model, dropped and made again.
    Recreate,
    /// In memory: none.
    Restart,
}

fn a_document() -> impl Strategy<Value = String> {
    let member = || proptest::option::weighted(0.8, select(&VALUES[..]));
    (member(), member(), member(), member(), any::<bool>()).prop_map(|(a, b, d, e, nested)| {
        let mut members = Vec::new();
        members.extend(a.map(|value| format!(r#""a":{value}"#)));
        members.extend(b.map(|value| format!(r#" "b" : {value}"#)));
        members.extend(d.map(|value| format!(r#""c":{{"d":{value}}}"#)));
        members.extend(e.map(|value| {
            if nested { format!(r#""e":{{"f":{value}}}"#) } else { format!(r#""e":{value}"#) }
        }));
        format!("{{{}}}", members.join(","))
    })
}

fn a_write() -> impl Strategy<Value = DocumentWrite> {
    let key =
        || select(vec!["k", "k0", "k1", "k2", "k3", "k4", "K", "l", "é", "\u{ffff}", "\u{10000}"]);
    prop_oneof![
        4 => (key(), a_document()).prop_map(|(key, json)| upsert(key, &json)),
        3 => (key(), a_document()).prop_map(|(key, patch)| merge(key, &patch)),
        1 => key().prop_map(delete),
    ]
}

fn a_match() -> impl Strategy<Value = FieldMatch> {
    let comparable = || {
        prop_oneof![
            select(vec![0.0, -0.0, 1.0, -1.0, 1.5, 1e300, -1e300, 5e-324]).prop_map(number),
            select(vec!["", "a", "aa", "b", "\0", "é", "0"]).prop_map(text),
        ]
    };
    let any_kind = prop_oneof![
        3 => comparable(),
        1 => Just(NULL),
        1 => any::<bool>().prop_map(Kind::BoolValue),
    ];
    let range = select(vec![Less, LessOrEqual, Greater, GreaterOrEqual]);
    let field = select(&FIELDS[..FIELDS.len() - 1]);
    let compared = prop_oneof![
        2 => (select(vec![Equals, Unspecified]), any_kind),
        1 => (range, comparable()),
    ];
    (prop_oneof![20 => field, 1 => Just("none")], compared).prop_map(
        |(field, (operator, value)): (_, (JsonOperator, _))| matches(field, operator, value),
    )
}

fn a_find() -> impl Strategy<Value = FindRequest> {
    let order = prop_oneof![2 => Just(""), 3 => select(&FIELDS[..])];
    let sizes = select(vec![0, 1, 2, 3, 1000]);
    (vec(a_match(), 0..4), order, any::<bool>(), sizes).prop_map(
        |(matches, order, descending, page_size)| FindRequest {
            descending,
            page_size,
            ..find("m", matches, order)
        },
    )
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        8 => vec(a_write(), 0..8).prop_map(Step::Apply),
        20 => a_find().prop_map(Step::Find),
        1 => Just(Step::Recreate),
        2 => Just(Step::Restart),
    ];
    vec(step, 10..80)
}

/// A server, and the model of what it has.
struct Twins {
    /// None between two runs of it.
    store: Option<TestStore>,
    models: Models,
    plain: Plain,
    head: u64,
}

async fn start(data: Option<&Path>) -> TestStore {
    TestStore::start_with(|config| config.data = data.map(Path::to_owned)).await
}

impl Twins {
    async fn new(data: Option<&Path>) -> Self {
        let store = start(data).await;
        let head = *store.fill("Payment-1", 100).await.last().unwrap();
        let models = store.models();
        models.create(create("m", 0, INDEXES)).await.unwrap();
        // A neighbour, whose documents are nobody else's.
        models.create(create("ma", 0, INDEXES)).await.unwrap();
        models.create(create("m", 2, INDEXES)).await.unwrap();
        for (model, version) in [("ma", 1), ("m", 2)] {
            let writes = [upsert("k", r#"{"a":1,"b":1,"other":true}"#)];
            let request = ApplyRequest { version, ..apply(model, 0, 1, writes) };
            models.apply(request).await.unwrap();
        }
        Self { store: Some(store), models, plain: Plain::default(), head }
    }

    async fn step(&mut self, step: Step, data: Option<&Path>) {
        match step {
            Step::Apply(writes) if self.plain.checkpoint < self.head => {
                let before = self.plain.checkpoint;
                self.plain.apply(before + 1, &writes);
                let answer =
                    self.models.apply(apply("m", before, before + 1, writes)).await.unwrap();
                assert_eq!(answer.document_count, self.plain.documents.len() as u64);
            }
            Step::Find(request) => self.find(request).await,
            Step::Recreate => {
                self.models.switch("m", 2).await.unwrap();
                assert_eq!(self.models.drop("m", 1).await.unwrap(), [1]);
                self.models.create(create("m", 1, INDEXES)).await.unwrap();
                self.models.switch("m", 1).await.unwrap();
                self.plain = Plain::default();
            }
            Step::Restart if data.is_some() => {
                self.stop().await;
                let store = start(data).await;
                self.models = store.models();
                self.store = Some(store);
                let told = self.models.checkpoint("m", 0).await.unwrap();
                assert_eq!(told.checkpoint, self.plain.checkpoint);
            }
            // The log has no further position for a checkpoint; or there is nothing to come back to.
            Step::Apply(_) | Step::Restart => {}
        }
    }

    async fn stop(&mut self) {
        let store = self.store.take().unwrap();
        store.stop.cancel();
        store.stopped().await.unwrap();
    }

    async fn find(&self, request: FindRequest) {
        if !is_indexed(INDEXES, &request) {
            refused(self.models.find(request).await, Code::FailedPrecondition, "NOT_INDEXED");
            return;
        }
        let what = format!("{request:?}");
        let page_size = if request.page_size == 0 { 100 } else { request.page_size as usize };
        let first = self.models.find(request.clone()).await.unwrap();
        assert!(first.documents.len() <= page_size, "{what}");
        assert_eq!(first.checkpoint, self.plain.checkpoint, "{what}");
        let found = self.models.find_all(request.clone()).await.unwrap();
        self.plain.assert_found(&found, &request);
        // However long the pages are, and backwards the same the other way round.
        let whole = FindRequest { page_size: 1000, ..request.clone() };
        assert_eq!(self.models.find_all(whole.clone()).await.unwrap(), found, "{what}");
        let other_way = FindRequest { descending: !request.descending, ..whole };
        let mut reversed = self.models.find_all(other_way).await.unwrap();
        reversed.reverse();
        assert_eq!(reversed, found, "{what}");
    }

    /// Everything, by every index and without any.
    async fn check(&self) {
        for order in ["", "a", "b", "c.d", "e"] {
            for descending in [false, true] {
                self.find(FindRequest { descending, ..find("m", [], order) }).await;
            }
        }
        for (key, kept) in &self.plain.documents {
            let document = self.models.document("m", key).await.unwrap();
            assert_same([&document], [(&**key, &**kept)], "by its key");
        }
        let listed = self.models.all().await;
        assert_eq!(listed.len(), 2);
        let version = &listed[0].versions[0];
        assert_eq!(version.document_count, self.plain.documents.len() as u64);
        let documents = self.models.documents("m").await;
        let bytes: usize = documents.iter().map(|(key, json)| key.len() + json.len()).sum();
        assert_eq!(version.document_bytes, bytes as u64);
    }
}

fn run(steps: Vec<Step>, data: Option<&Path>) {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime.unwrap().block_on(async {
        let mut twins = Twins::new(data).await;
        for step in steps {
            twins.step(step, data).await;
        }
        twins.check().await;
        twins.stop().await;
    });
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, ..ProptestConfig::default() })]

    /// The same documents, in the same order, with the same positions; and what no index answers is refused.
    #[test]
    fn any_find_gives_what_a_look_at_every_document_gives(steps in steps()) {
        run(steps, None);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 25, ..ProptestConfig::default() })]

    #[test]
    fn any_find_gives_the_same_after_restarts(steps in steps()) {
        let data = tempfile::tempdir().unwrap();
        run(steps, Some(data.path()));
    }
}
