//! What a store must answer, by the plainest means: a list of events, looked through from end to end.

use std::collections::BTreeMap;

use annals::wire::proto::v1::{
    AppendResponse, Filter, NewEvent, RecordedEvent, new_event, recorded_event,
};

use super::dice::Dice;

pub const TYPES: [&str; 6] = ["Opened", "Paid", "Failed", "Refunded", "Noted", "Closed"];
pub const TAGS: [&str; 6] = ["red", "green", "blue", "grün", "a b", "x"];
pub const CATEGORIES: [&str; 5] = ["Payment", "Order", "Ordering", "Zahlung€", "-odd"];

/// The log, as it should be.
#[derive(Default)]
pub struct Model {
    pub log: Vec<RecordedEvent>,
}

impl Model {
    /// Notes what was appended to `stream`, and where `answer` says it is.
    pub fn note(&mut self, stream: &str, events: Vec<NewEvent>, answer: &AppendResponse) {
        let version = self.stream(stream).count() as u64;
        let head = self.log.len() as u64;
        let count = events.len() as u64;
        assert_eq!((answer.first_version, answer.version), (version + 1, version + count));
        assert_eq!((answer.first_position, answer.position), (head + 1, head + count));
        for (index, event) in (1..).zip(events) {
            self.log.push(RecordedEvent {
                id: event.id,
                position: head + index,
                version: version + index,
                recorded_at: answer.recorded_at,
                occurred_at: event.occurred_at.or(answer.recorded_at),
                stream: stream.to_owned(),
                r#type: event.r#type,
                data: event.data.map(|data| match data {
                    new_event::Data::Text(text) => recorded_event::Data::Text(text),
                    new_event::Data::Binary(bytes) => recorded_event::Data::Binary(bytes),
                }),
                content_type: event.content_type,
                correlation_id: event.correlation_id,
                causation_id: event.causation_id,
                metadata: event.metadata,
                tags: event.tags,
            });
        }
    }

    pub fn stream<'a>(
        &'a self,
        name: &'a str,
    ) -> impl DoubleEndedIterator<Item = &'a RecordedEvent> {
        self.log.iter().filter(move |event| event.stream == name)
    }

    /// What a filter picks, and no more than the request allows.
    pub fn read(
        &self,
        filters: &[Filter],
        backwards: bool,
        after: u64,
        limit: u64,
    ) -> Vec<RecordedEvent> {
        let matching = self.log.iter().filter(|event| matches(filters, event));
        part(matching, |event| event.position, backwards, after, limit)
    }

    /// The same of one stream.
    pub fn read_stream(
        &self,
        name: &str,
        backwards: bool,
        after: u64,
        limit: u64,
    ) -> Vec<RecordedEvent> {
        part(self.stream(name), |event| event.version, backwards, after, limit)
    }

    /// Names, how many events they have and where the last one is, in the order of the names.
    pub fn names<'a>(
        &'a self,
        name: impl Fn(&'a RecordedEvent) -> &'a str,
    ) -> Vec<(String, u64, u64)> {
        let mut names = BTreeMap::new();
        for event in &self.log {
            let (count, last) = names.entry(name(event).to_owned()).or_insert((0, 0));
            *count += 1;
            *last = event.position;
        }
        names.into_iter().map(|(name, (count, last))| (name, count, last)).collect()
    }
}

fn part<'a>(
    events: impl DoubleEndedIterator<Item = &'a RecordedEvent>,
    place: impl Fn(&RecordedEvent) -> u64,
    backwards: bool,
    after: u64,
    limit: u64,
) -> Vec<RecordedEvent> {
    let limit = if limit == 0 { usize::MAX } else { usize::try_from(limit).unwrap() };
    if backwards {
        let before = if after == 0 { u64::MAX } else { after };
        events.rev().filter(|event| place(event) < before).take(limit).cloned().collect()
    } else {
        events.filter(|event| place(event) > after).take(limit).cloned().collect()
    }
}

/// The text before the first hyphen; a name that begins with one is a category of its own.
pub fn category(stream: &str) -> &str {
    match stream.find('-') {
        Some(0) | None => stream,
        Some(at) => &stream[..at],
    }
}

/// Whether one of the filters picks the event; none picks every event.
pub fn matches(filters: &[Filter], event: &RecordedEvent) -> bool {
    fn names(values: &[String], value: &str) -> bool {
        values.is_empty() || values.iter().any(|one| one == value)
    }
    filters.is_empty()
        || filters.iter().any(|filter| {
            names(&filter.streams, &event.stream)
                && names(&filter.categories, category(&event.stream))
                && names(&filter.types, &event.r#type)
                && (filter.tags.is_empty() || filter.tags.iter().any(|t| event.tags.contains(t)))
                && filter.tags_all.iter().all(|tag| event.tags.contains(tag))
        })
}

/// The name of one of some forty streams.
pub fn random_stream(dice: &mut Dice) -> String {
    let category = *dice.pick(&CATEGORIES);
    match dice.below(9) {
        0 => category.to_owned(),
        number => format!("{category}-{number}"),
    }
}

/// An event with a bit of everything, as it is recorded.
pub fn random_event(dice: &mut Dice) -> NewEvent {
    let id = uuid::Uuid::from_u64_pair(dice.next(), dice.next());
    let (data, content_type) = match dice.below(4) {
        0 => (None, ""),
        1 => (Some(new_event::Data::Binary(vec![0, 159, 255].into())), "image/png"),
        2 => (Some(new_event::Data::Text("häßlich".to_owned())), "text/plain"),
        _ => (Some(new_event::Data::Text(format!("{{\"n\":{}}}", dice.next()))), ""),
    };
    let occurred_at = dice.once_in(2).then(|| prost_types::Timestamp {
        seconds: i64::try_from(dice.below(100_000)).unwrap() - 50_000,
        nanos: i32::try_from(dice.below(1_000_000_000)).unwrap(),
    });
    let entries = [("empty", ""), ("key", "value")].map(|(k, v)| (k.to_owned(), v.to_owned()));
    let metadata = entries.into_iter().filter(|_| dice.once_in(3)).collect();
    NewEvent {
        id: id.to_string(),
        r#type: (*dice.pick(&TYPES)).to_owned(),
        data,
        content_type: content_type.to_owned(),
        correlation_id: if dice.once_in(3) { "flow".to_owned() } else { String::new() },
        causation_id: if dice.once_in(3) { "cause".to_owned() } else { String::new() },
        metadata,
        tags: TAGS.into_iter().filter(|_| dice.once_in(4)).map(str::to_owned).collect(),
        occurred_at,
    }
}

/// No filter, one or several, with names that exist and names that do not.
pub fn random_filters(dice: &mut Dice) -> Vec<Filter> {
    let mut filters = Vec::new();
    for _ in 0..*dice.pick(&[0, 1, 1, 1, 2, 3]) {
        let mut filter = Filter::default();
        while filter == Filter::default() {
            filter.streams = values(dice, 5, random_stream);
            filter.categories = values(dice, 3, |dice| (*dice.pick(&CATEGORIES)).to_owned());
            filter.types = values(dice, 2, |dice| (*dice.pick(&TYPES)).to_owned());
            filter.tags = values(dice, 3, |dice| (*dice.pick(&TAGS)).to_owned());
            filter.tags_all = values(dice, 3, |dice| (*dice.pick(&TAGS)).to_owned());
        }
        filters.push(filter);
    }
    filters
}

fn values(dice: &mut Dice, once_in: u64, value: impl Fn(&mut Dice) -> String) -> Vec<String> {
    if !dice.once_in(once_in) {
        return Vec::new();
    }
    let unknown =
        |dice: &mut Dice| if dice.once_in(10) { Some("Unheard".to_owned()) } else { None };
    (0..=dice.below(3)).map(|_| unknown(dice).unwrap_or_else(|| value(dice))).collect()
}
