"""Searches, timelines, statistics and trends of a real history, against what its file says.

The file is read here once more, with json, datetime, zoneinfo and collections, and everything that the
server must answer is computed from it; nothing is taken from the server. It lies beside the project:
where it is not, nothing is run, and the run says so.
"""

import collections
import contextlib
import datetime
import functools
import gzip
import itertools
import json
import tempfile
import typing
import unittest
import zoneinfo

import grpc

import annals
from test_python_reflection import Stranger

PERMITS = annals.ROOT.parent / "shared" / "data" / "permits.ndjson.gz"
KEYS = ["organizationId", "userId"]
OPTIONS = ["--index-metadata", ",".join(KEYS)]
UTC, AMSTERDAM = "UTC", "Europe/Amsterdam"
UNITS = ["HOUR", "DAY", "WEEK", "MONTH"]
SECOND = 1_000_000_000
EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.timezone.utc)


def setUpModule():
    if not PERMITS.exists():
        raise unittest.SkipTest(f"NOT RUN: there is no {PERMITS}")


# --- The file ------------------------------------------------------------------------------------


class Event(typing.NamedTuple):
    """What an event says, as the server must give it back. Times are nanoseconds since 1970."""

    position: int
    version: int
    id: str
    stream: str
    type: str
    occurred: int
    correlation: str
    causation: str
    metadata: dict
    text: str

    @property
    def category(self):
        return self.stream.split("-")[0]

    @property
    def organization(self):
        return self.metadata["organizationId"]

    @property
    def user(self):
        return self.metadata["userId"]

    @property
    def data(self):
        return json.loads(self.text)

    @property
    def channel(self):
        return self.data.get("case", {}).get("channel")


@functools.cache
def history():
    """The events of the file, in the order in which an import appends them."""
    events, versions = [], collections.Counter()
    with gzip.open(PERMITS, "rt", encoding="utf-8") as lines:
        for line in lines:
            cloud_event = json.loads(line)
            stream = cloud_event["subject"]
            versions[stream] += 1
            event = Event(
                position=len(events) + 1,
                version=versions[stream],
                id=cloud_event["id"],
                stream=stream,
                type=cloud_event["type"],
                occurred=nanoseconds(cloud_event["time"]),
                correlation=cloud_event["correlationid"],
                causation=cloud_event.get("causationid", ""),
                metadata={
                    "source": cloud_event["source"],
                    "organizationId": cloud_event["organizationid"],
                    "userId": cloud_event["userid"],
                },
                text=member(line, "data"),
            )
            events.append(event)
    return events


def nanoseconds(time):
    """RFC 3339 as nanoseconds since 1970, without floating point. (datetime has microseconds; the file has
    milliseconds.)"""
    since = datetime.datetime.fromisoformat(time) - EPOCH
    return since // datetime.timedelta(microseconds=1) * 1000


def member(line, name):
    """The JSON text of a member of an object, as it stands there."""
    start = line.index(f'"{name}":') + len(name) + 3
    _, end = json.JSONDecoder().raw_decode(line, start)
    return line[start:end]


# --- What is to be expected ----------------------------------------------------------------------


class Bucket(typing.NamedTuple):
    """An hour, day, week or month of a time zone, in seconds since 1970."""

    start: int
    end: int
    key: str


@functools.cache
def bucket(unit, zone, seconds):
    """The one that holds this second. (For zones whose offsets are whole hours and that have midnights.)"""
    info = zoneinfo.ZoneInfo(zone)
    local = datetime.datetime.fromtimestamp(seconds, info)
    day = local.date()
    match unit:
        case "HOUR":
            start = seconds - 60 * local.minute - local.second
            key = datetime.datetime.fromtimestamp(start, info).isoformat(timespec="minutes")
            return Bucket(start, start + 3600, key)
        case "DAY":
            first, days, key = day, 1, day.isoformat()
        case "WEEK":
            first, days = day - datetime.timedelta(day.weekday()), 7
            key = "{0.year:04}-W{0.week:02}".format(day.isocalendar())
        case "MONTH":
            first = day.replace(day=1)
            days = ((first + datetime.timedelta(31)).replace(day=1) - first).days
            key = f"{first:%Y-%m}"
    midnight = datetime.datetime.combine(first, datetime.time(), info)
    # Of a time with its zone, not of an instant: `days` later is midnight, too.
    return Bucket(int(midnight.timestamp()), int((midnight + datetime.timedelta(days)).timestamp()), key)


def bucket_of(unit, zone, event):
    return bucket(unit, zone, event.occurred // SECOND)


def all_buckets(unit, zone, first, last):
    """Those from `first` to `last`, with those between them."""
    while first.start <= last.start:
        yield first
        first = bucket(unit, zone, first.end)


def largest_first(counts):
    """Names and their counts: those with the most events first, then in the order of the names' bytes."""
    return sorted(counts.items(), key=lambda row: (-row[1], row[0].encode()))


def name_of(grouping):
    return {
        "TYPE": lambda event: event.type,
        "CATEGORY": lambda event: event.category,
        "STREAM": lambda event: event.stream,
    }.get(grouping) or (lambda event: event.metadata.get(grouping))


def first_seen(grouping):
    """Of each name its place among all of them, in the order in which they came."""
    return {name: place for place, name in enumerate(dict.fromkeys(map(name_of(grouping), history())))}


def statistics_rows(grouping, zone, events):
    """Key, start and count of each row, and how many events have no row."""
    if grouping in UNITS:
        counts = collections.Counter(bucket_of(grouping, zone, event) for event in events)
        return [(of.key, of.start, count) for of, count in sorted(counts.items())], 0
    counts = collections.Counter(map(name_of(grouping), events))
    without = counts.pop(None, 0)
    return [(name, None, count) for name, count in largest_first(counts)], without


def trends_rows(unit, zone, events, series_of=lambda event: "", series=("",), buckets=None):
    """Key, start, end, series and count of each row; `buckets`: of these, also where nothing happened."""
    counts = collections.Counter((bucket_of(unit, zone, event), series_of(event)) for event in events)
    every = buckets or sorted({of for of, _ in counts})
    rows = [(of.key, of.start, of.end, name, counts[of, name]) for of in every for name in series]
    return [row for row in rows if buckets or row[-1]]


def tree_places(events):
    """Of each event's id, its depth and its place in the walk over the trees."""
    ids = {event.id for event in events}
    children, places = collections.defaultdict(list), {}
    for event in events:
        children[event.causation if event.causation in ids else None].append(event.id)

    def walk(cause, depth):
        for event in children[cause]:
            places[event] = (depth, len(places) + 1)
            walk(event, depth + 1)

    walk(None, 0)
    return places


# --- Filters -------------------------------------------------------------------------------------


def metadata(key, *values):
    return {"key": key, "values": values}


def in_json(path, operator, **value):
    compare = {"path": path, "operator": f"JSON_OPERATOR_{operator}"}
    return compare | ({"value": value} if value else {})


def time_range(first, after, later=0):
    """From one event's time on and before another's; or so many nanoseconds later."""
    return {"from": moment(first.occurred + later), "to": moment(after.occurred + later)}


def moment(nanos):
    return {"seconds": nanos // SECOND, "nanos": nanos % SECOND}


def filter_cases():
    """Of each case its name, its filters, and which events they mean."""
    events = history()
    first, after = events[2000], events[5000]
    check, stop, print_it = (
        "T02 Check confirmation of receipt",
        "T10 Determine necessity to stop indication",
        "T05 Print and send confirmation of receipt",
    )
    return [
        ("everything", [], lambda event: True),
        ("a type", [{"types": [check]}], lambda event: event.type == check),
        ("two types", [{"types": [check, stop]}], lambda event: event.type in (check, stop)),
        ("a stream", [{"streams": [first.stream]}], lambda event: event.stream == first.stream),
        (
            "the beginning of streams' names",
            [{"stream_prefixes": ["Permit-case-89"]}],
            lambda event: event.stream.startswith("Permit-case-89"),
        ),
        (
            "an organization",
            [{"metadata": [metadata("organizationId", "Group 4")]}],
            lambda event: event.organization == "Group 4",
        ),
        (
            "two users",
            [{"metadata": [metadata("userId", first.user, after.user)]}],
            lambda event: event.user in (first.user, after.user),
        ),
        (
            "metadata without an index",
            [{"types": [print_it], "metadata": [metadata("source", "/permits", "/nowhere")]}],
            lambda event: event.type == print_it,
        ),
        (
            "an organization's user",
            [{"metadata": [metadata("organizationId", first.organization), metadata("userId", first.user)]}],
            lambda event: (event.organization, event.user) == (first.organization, first.user),
        ),
        (
            "a time range",
            [{"occurred": time_range(first, after)}],
            lambda event: first.occurred <= event.occurred < after.occurred,
        ),
        (
            "a time range, a nanosecond later",
            [{"occurred": time_range(first, after, later=1)}],
            lambda event: first.occurred < event.occurred <= after.occurred,
        ),
        (
            "until a time",
            [{"occurred": {"to": moment(first.occurred)}}],
            lambda event: event.occurred < first.occurred,
        ),
        (
            "a correlation",
            [{"correlation_ids": [first.correlation]}],
            lambda event: event.correlation == first.correlation,
        ),
        ("a cause", [{"causation_ids": [first.id]}], lambda event: event.causation == first.id),
        (
            "texts in any case",
            [{"texts": ['"CHANNEL":"desk"', "e-Mail"]}],
            lambda event: any(text in event.text.lower() for text in ('"channel":"desk"', "e-mail")),
        ),
        (
            "an activity",
            [{"json": [in_json("$.activity", "EQUALS", string_value=stop)]}],
            lambda event: event.data["activity"] == stop,
        ),
        (
            "a channel",
            [{"json": [in_json("$.case.channel", "EQUALS", string_value="Post")]}],
            lambda event: event.channel == "Post",
        ),
        (
            "any other channel",
            [{"json": [in_json("$.case.channel", "NOT_EQUALS", string_value="Internet")]}],
            lambda event: event.channel not in (None, "Internet"),
        ),
        (
            "any channel",
            [{"json": [in_json("$.case.channel", "EXISTS")]}],
            lambda event: event.channel is not None,
        ),
        (
            "cases of a year",
            [
                {
                    "json": [
                        in_json("$.case.startdate", "GREATER_OR_EQUAL", string_value="2011"),
                        in_json("$.case.startdate", "LESS", string_value="2012"),
                    ]
                }
            ],
            lambda event: event.data.get("case", {}).get("startdate", "").startswith("2011"),
        ),
        (
            "everything at once",
            [
                {
                    "categories": ["Permit", "Other"],
                    "types": [first.type, "Confirmation of receipt"],
                    "metadata": [metadata("organizationId", "Group 1", "Group 2")],
                    "occurred": time_range(first, after),
                    "texts": ["desk", "post"],
                    "json": [in_json("$..channel", "EXISTS")],
                }
            ],
            lambda event: event.type in (first.type, "Confirmation of receipt")
            and event.organization in ("Group 1", "Group 2")
            and first.occurred <= event.occurred < after.occurred
            and any(text in event.text.lower() for text in ("desk", "post"))
            and event.channel is not None,
        ),
        (
            "one or the other",
            [
                {"types": [check], "occurred": time_range(first, after)},
                {"metadata": [metadata("organizationId", "Group 4")]},
                {"json": [in_json("$.case.channel", "EQUALS", string_value="e-mail")]},
            ],
            lambda event: (event.type == check and first.occurred <= event.occurred < after.occurred)
            or event.organization == "Group 4"
            or event.channel == "e-mail",
        ),
        ("nothing", [{"types": ["No such type"]}], lambda event: False),
    ]


def filter_case(name):
    """The filters of a case, and the events that they mean."""
    (found,) = [case for case in filter_cases() if case[0] == name]
    return found[1], list(filter(found[2], history()))


# --- What the server says ------------------------------------------------------------------------


def total(time):
    """A timestamp or a duration as nanoseconds."""
    return time.seconds * SECOND + time.nanos


def said(recorded):
    """A recorded event as one of the file."""
    return Event(
        position=recorded.position,
        version=recorded.version,
        id=recorded.id,
        stream=recorded.stream,
        type=recorded.type,
        occurred=total(recorded.occurred_at),
        correlation=recorded.correlation_id,
        causation=recorded.causation_id,
        metadata=dict(recorded.metadata),
        text=recorded.text,
    )


def group_by(grouping):
    """Of a unit, `TYPE` and the like, or a metadata key."""
    if grouping in KEYS:
        return {"grouping": "GROUPING_METADATA", "metadata_key": grouping}
    return {"grouping": f"GROUPING_{grouping}"}


def start_of(row):
    return total(row.start) // SECOND if row.HasField("start") else None


class Permits:
    """A server that has the file's events, and calls to it."""

    def __init__(self, *options):
        self.server = annals.Server(*OPTIONS, *options)
        self.stranger = Stranger(self.server.address)

    def take_in(self):
        """Imports the file."""
        done = annals.call([annals.BINARY, "import", PERMITS, "--server", self.server.address])
        if done.code != 0:
            raise AssertionError(done.err)

    @functools.cache
    def query(self, name):
        return self.stranger.method(f"annals.v1.QueryService/{name}")

    def search(self, filters, backwards=False, limit=0, token=""):
        """The events of a page, and its end."""
        direction = "DIRECTION_BACKWARDS" if backwards else "DIRECTION_FORWARDS"
        call = self.query("Search")
        *messages, last = call(filters=filters, direction=direction, limit=limit, page_token=token)
        batches = [message.events.events for message in messages if message.WhichOneof("message") == "events"]
        return [said(event) for batch in batches for event in batch], last.end

    def pages(self, filters, backwards, limit, token=""):
        """The events of each page, from the one that the token is for."""
        while True:
            page, end = self.search(filters, backwards, limit, token)
            yield page
            token = end.next_page_token
            if not token:
                return

    def stop(self):
        self.stranger.close()
        code = self.server.stop()
        if code != 0:
            raise AssertionError(f"exit code {code} after SIGTERM:\n{self.server.log.text()}")


class Checks:
    """What holds for every server that has the file; `permits` is one."""

    def assert_same(self, found, expected):
        """Of long lists: where they begin to differ. (unittest would compare them for minutes.)"""
        if found != expected:
            pairs = enumerate(itertools.zip_longest(found, expected))
            index, (is_there, should_be) = next((index, pair) for index, pair in pairs if pair[0] != pair[1])
            lengths = f"{len(found)} where {len(expected)} are expected"
            self.fail(f"{lengths}; number {index} is\n  {is_there}\nand should be\n  {should_be}")

    @contextlib.contextmanager
    def refused(self, code, reason):
        with self.assertRaises(grpc.RpcError) as raised:
            yield
        self.assertEqual(raised.exception.code(), code)
        details = self.permits.stranger.details(raised.exception)
        self.assertEqual(details["google.rpc.ErrorInfo"].reason, reason)

    # Searches

    def test_a_search_finds_what_the_file_has_in_both_directions(self):
        for name, filters, means in filter_cases():
            expected = list(filter(means, history()))
            for backwards in (False, True):
                with self.subTest(name, backwards=backwards):
                    found, end = self.permits.search(filters, backwards)
                    self.assert_same(found, expected[:: -1 if backwards else 1])
                    self.assertEqual((end.event_count, end.head), (len(expected), len(history())))
                    self.assertEqual(end.next_page_token, "")

    def test_every_filter_but_the_last_means_something(self):
        *cases, (_, _, nothing) = filter_cases()
        for name, _, means in cases:
            with self.subTest(name):
                self.assertTrue(any(map(means, history())))
        self.assertFalse(any(map(nothing, history())))

    def test_counts_are_those_of_the_file(self):
        for name, filters, means in filter_cases():
            with self.subTest(name):
                answer = self.permits.query("Count")(filters=filters)
                expected = sum(map(means, history()))
                self.assertEqual((answer.count, answer.position), (expected, len(history())))

    def test_pages_of_seven_give_every_event_once(self):
        for name in ("everything", "an organization", "any channel", "one or the other"):
            filters, expected = filter_case(name)
            for backwards in (False, True):
                with self.subTest(name, backwards=backwards):
                    pages = list(self.permits.pages(filters, backwards, limit=7))
                    self.assert_same(list(itertools.chain(*pages)), expected[:: -1 if backwards else 1])
                    self.assertEqual({len(page) for page in pages[:-1]}, {7})

    # Statistics

    def compare_statistics(self, events, groupings, answer, zone=UTC, rows_max=100_000):
        self.assertEqual(answer.event_count, len(events))
        self.assertEqual(answer.stream_count, len({event.stream for event in events}))
        self.assertEqual(answer.position, len(history()))
        times = [event.occurred for event in events]
        for time, expected in ((answer.first_occurred_at, min(times)), (answer.last_occurred_at, max(times))):
            self.assertEqual(total(time), expected)
        self.assertLessEqual(total(answer.first_recorded_at), total(answer.last_recorded_at))
        self.assertGreater(total(answer.first_recorded_at), max(times), "the file is older than the import")
        self.assertEqual(len(answer.groups), len(groupings))
        for grouping, group in zip(groupings, answer.groups):
            with self.subTest(grouping):
                asked = group_by(grouping)
                self.assertEqual(group.group_by, type(group.group_by)(**asked))
                rows, without = statistics_rows(grouping, zone, events)
                # Of times the latest, of names the largest, and of as large ones those that came first.
                if grouping in UNITS:
                    sent = rows[-rows_max:]
                else:
                    first = first_seen(grouping)
                    largest = sorted(rows, key=lambda row: (-row[-1], first[row[0]]))[:rows_max]
                    sent = [row for row in rows if row in largest]
                self.assert_same([(row.key, start_of(row), row.count) for row in group.rows], sent)
                other = sum(row[-1] for row in rows) - sum(row[-1] for row in sent)
                self.assertEqual(
                    (group.row_count, group.other_count, group.without_count), (len(rows), other, without)
                )

    def statistics(self, groupings, **request):
        return self.permits.query("GetStatistics")(group_by=[group_by(name) for name in groupings], **request)

    def test_statistics_of_everything_in_two_time_zones(self):
        groupings = [*UNITS, "TYPE", "CATEGORY", "STREAM", *KEYS]
        for zone in (AMSTERDAM, UTC):
            with self.subTest(zone):
                answer = self.statistics(groupings, time_zone=zone, rows_max=100_000)
                self.compare_statistics(history(), groupings, answer, zone)

    def test_statistics_of_what_a_filter_picks(self):
        groupings = [*UNITS, "TYPE", *KEYS]
        for name, filters, means in filter_cases()[:-1]:
            with self.subTest(name):
                answer = self.statistics(groupings, filters=filters, time_zone=AMSTERDAM, rows_max=100_000)
                self.compare_statistics(list(filter(means, history())), groupings, answer, AMSTERDAM)

    def test_statistics_of_nothing_are_empty(self):
        answer = self.statistics(["DAY", "TYPE"], filters=[{"types": ["No such type"]}])
        self.assertEqual((answer.event_count, answer.stream_count), (0, 0))
        self.assertEqual([list(group.rows) for group in answer.groups], [[], []])
        self.assertFalse(answer.HasField("first_occurred_at") or answer.HasField("last_recorded_at"))

    def test_of_times_the_latest_rows_are_sent_and_of_names_the_largest(self):
        groupings = ["HOUR", "MONTH", "TYPE", "STREAM", "userId"]
        answer = self.statistics(groupings, time_zone=AMSTERDAM, rows_max=3)
        self.compare_statistics(history(), groupings, answer, AMSTERDAM, rows_max=3)

    def test_what_is_not_asked_for_is_grouped_by_hour_day_type_category_and_indexed_metadata(self):
        groupings = ["HOUR", "DAY", "TYPE", "CATEGORY", *KEYS]
        self.compare_statistics(history(), groupings, self.statistics([]), rows_max=1000)

    # Trends

    def trends(self, unit, **request):
        return self.permits.query("GetTrends")(unit=f"GROUPING_{unit}", **request)

    def compare_trends(self, answer, rows):
        found = [
            (row.key, total(row.start) // SECOND, total(row.end) // SECOND, row.series, row.count)
            for row in answer.rows
        ]
        self.assert_same(found, rows)
        self.assertEqual(answer.position, len(history()))

    def test_trends_in_each_unit_with_and_without_what_is_empty(self):
        for unit, zone in itertools.product(UNITS, (AMSTERDAM, UTC)):
            ends = [bucket_of(unit, zone, event) for event in (history()[0], history()[-1])]
            for buckets in (None, list(all_buckets(unit, zone, *ends))):
                with self.subTest(unit, zone=zone, fill_empty=bool(buckets)):
                    answer = self.trends(unit, time_zone=zone, fill_empty=bool(buckets))
                    self.compare_trends(answer, trends_rows(unit, zone, history(), buckets=buckets))
                    self.assertEqual(answer.event_count, len(history()))

    def test_trends_over_a_time_range_are_filled_to_its_ends(self):
        first, after = history()[0], history()[300]
        wide = {"from": moment(first.occurred - 40 * 86_400 * SECOND), "to": moment(after.occurred)}
        events = history()[:300]
        for unit, zone in itertools.product(UNITS, (AMSTERDAM, UTC)):
            with self.subTest(unit, zone=zone):
                filters = [{"occurred": wide}]
                answer = self.trends(unit, filters=filters, time_zone=zone, fill_empty=True)
                ends = [wide["from"]["seconds"], (after.occurred - 1) // SECOND]
                buckets = list(all_buckets(unit, zone, *(bucket(unit, zone, end) for end in ends)))
                self.compare_trends(answer, trends_rows(unit, zone, events, buckets=buckets))

    def test_trends_of_each_organization(self):
        series = largest_first(collections.Counter(event.organization for event in history()))
        for unit, zone, series_max in itertools.product(UNITS, (AMSTERDAM, UTC), (100, 3)):
            with self.subTest(unit, zone=zone, series_max=series_max):
                answer = self.trends(
                    unit, time_zone=zone, split_by=group_by("organizationId"), series_max=series_max
                )
                sent = series[:series_max]
                self.assertEqual([(row.key, row.count) for row in answer.series], sent)
                rows = trends_rows(
                    unit, zone, history(), lambda event: event.organization, [name for name, _ in sent]
                )
                self.compare_trends(answer, rows)
                other = len(history()) - sum(count for _, count in sent)
                self.assertEqual(
                    (answer.event_count, answer.other_count, answer.without_count), (len(history()), other, 0)
                )

    def test_trends_of_each_organization_with_what_is_empty(self):
        series = largest_first(collections.Counter(event.organization for event in history()))
        names = [name for name, _ in series]
        for unit, zone in itertools.product(("DAY", "WEEK", "MONTH"), (AMSTERDAM, UTC)):
            with self.subTest(unit, zone=zone):
                answer = self.trends(
                    unit, time_zone=zone, fill_empty=True, split_by=group_by("organizationId"), series_max=100
                )
                ends = [bucket_of(unit, zone, event) for event in (history()[0], history()[-1])]
                buckets = list(all_buckets(unit, zone, *ends))
                rows = trends_rows(unit, zone, history(), lambda event: event.organization, names, buckets)
                self.compare_trends(answer, rows)

    def test_more_rows_than_anybody_reads_are_refused(self):
        with self.refused(grpc.StatusCode.RESOURCE_EXHAUSTED, "TOO_MANY_ROWS"):
            self.trends("HOUR", fill_empty=True, split_by=group_by("organizationId"))

    # Timelines

    def timeline(self, correlation, limit=0):
        first, *others = self.permits.query("GetCorrelation")(correlation_id=correlation, limit=limit)
        return first.summary, [other.entry for other in others]

    def expected_timeline(self, events, sent):
        """Of each entry: event, since first, cause, cause's position, since cause, depth, tree order."""
        by_id, places = {event.id: event for event in history()}, tree_places(sent)
        for event in sent:
            cause = by_id.get(event.causation)
            if cause is None:
                kind = "CAUSE_UNKNOWN" if event.causation else "CAUSE_NONE"
            else:
                kind = "CAUSE_KNOWN" if cause in sent else "CAUSE_ELSEWHERE"
            yield (
                event,
                event.occurred - events[0].occurred,
                kind,
                cause.position if cause else 0,
                event.occurred - cause.occurred if cause else None,
                *places[event.id],
            )

    def compare_timeline(self, events, limit=0):
        sent = events[:limit] if limit else events
        summary, entries = self.timeline(events[0].correlation, limit)
        self.assertEqual((summary.event_count, summary.sent_count), (len(events), len(sent)))
        if not limit:
            ends = (total(summary.first_occurred_at), total(summary.last_occurred_at))
            self.assertEqual(ends, (events[0].occurred, events[-1].occurred))
        roots = sum(depth == 0 for depth, _ in tree_places(sent).values())
        streams = {event.stream for event in sent}
        self.assertEqual((summary.stream_count, summary.root_count), (len(streams), roots))
        causes = self.permits.stranger.pool.FindEnumTypeByName("annals.v1.Cause").values_by_number
        found = [
            (
                said(entry.event),
                total(entry.since_first),
                causes[entry.cause].name,
                entry.cause_position,
                total(entry.since_cause) if entry.HasField("since_cause") else None,
                entry.depth,
                entry.tree_order,
            )
            for entry in entries
        ]
        self.assert_same(found, list(self.expected_timeline(events, sent)))

    def test_timelines_are_those_of_the_file(self):
        by_correlation = collections.defaultdict(list)
        for event in history():
            by_correlation[event.correlation].append(event)
        timelines = sorted(by_correlation.values(), key=len)
        # The longest ones, and of the others some of every length.
        for events in timelines[-10:] + timelines[:: len(timelines) // 40]:
            with self.subTest(events[0].correlation):
                self.compare_timeline(events)
        with self.subTest("only the first ones"):
            self.compare_timeline(timelines[-1], limit=4)

    def test_a_correlation_that_nobody_has_is_told(self):
        with self.refused(grpc.StatusCode.NOT_FOUND, "UNKNOWN_CORRELATION"):
            self.timeline("nobody's")


class InMemory(Checks, unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.permits = Permits()
        cls.addClassCleanup(cls.permits.stop)
        cls.permits.take_in()


class DurableAfterRestart(Checks, unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        directory = tempfile.TemporaryDirectory()
        cls.addClassCleanup(directory.cleanup)
        options = ["--data", directory.name]
        before = Permits(*options)
        with contextlib.ExitStack() as stack:
            stack.callback(before.stop)
            before.take_in()
            cls.begun = [cls.begin(before, backwards) for backwards in (False, True)]
        cls.permits = Permits(*options)
        cls.addClassCleanup(cls.permits.stop)

    @staticmethod
    def begin(permits, backwards):
        """The first page of a search, and the token for the next one."""
        filters, _ = filter_case("one or the other")
        page, end = permits.search(filters, backwards, limit=100)
        return page, end.next_page_token

    def test_a_search_that_was_begun_before_the_restart_goes_on(self):
        filters, expected = filter_case("one or the other")
        for backwards, (first, token) in zip((False, True), self.begun):
            with self.subTest(backwards=backwards):
                rest = self.permits.pages(filters, backwards, limit=100, token=token)
                found = list(itertools.chain(first, *rest))
                self.assert_same(found, expected[:: -1 if backwards else 1])


if __name__ == "__main__":
    unittest.main()
