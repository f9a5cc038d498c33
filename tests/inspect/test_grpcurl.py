"""grpcurl, as anybody would use it on a server they do not know. It speaks reflection v1alpha."""

import json
import re
import unittest

import annals

PAYMENT = '{"amount":"12.50","currency":"EUR"}'
EVENT_ID = "0192f0c1-2c6a-7cc0-a5a1-6d2f3f8e9b10"


class Grpcurl(annals.Inspection):
    def command(self, *words, data=None):
        options = ["-d", json.dumps(data)] if data is not None else []
        return ["grpcurl", "-plaintext", *options, self.address, *words]

    def succeed(self, *words, data=None):
        answer = annals.call(self.command(*words, data=data))
        self.assertEqual(answer.code, 0, answer.err)
        return answer

    def refuse(self, method, data, code):
        """The details of the status, by their type, decoded as grpcurl shows them."""
        answer = annals.call(self.command(method, data=data))
        self.assertNotEqual(answer.code, 0, answer.out)
        self.assertIn(f"Code: {code}", answer.err)
        details = [json.loads(text) for text in re.findall(r"^\s+\d+\)\s+(\{.*\})$", answer.err, re.M)]
        by_type = {detail["@type"].rsplit("/", 1)[-1]: detail for detail in details}
        self.assertIn("google.rpc.ErrorInfo", by_type, answer.err)
        self.assertEqual(by_type["google.rpc.ErrorInfo"]["domain"], "annals")
        return by_type

    def refused_fields(self, method, data):
        """The fields that the answer to a bad request names."""
        details = self.refuse(method, data, "InvalidArgument")
        self.assertEqual(details["google.rpc.ErrorInfo"]["reason"], "INVALID_REQUEST")
        violations = details["google.rpc.BadRequest"]["fieldViolations"]
        self.assertTrue(all(violation["description"] for violation in violations))
        return [violation["field"] for violation in violations]

    def append(self, stream, *types, **more):
        request = {"stream": stream, "events": [{"type": kind, "text": PAYMENT} for kind in types], **more}
        return self.succeed("annals.v1.CommandService/Append", data=request).message

    def test_list_names_every_service(self):
        listed = self.succeed("list").out.split()
        for service in [*annals.SERVICES, "grpc.health.v1.Health"]:
            self.assertIn(service, listed)

    def test_describe_shows_every_service_with_its_comments(self):
        for service in annals.SERVICES:
            with self.subTest(service):
                described = self.succeed("describe", service).out
                self.assertIn(f"{service} is a service:", described)
                self.assertRegex(described, r"(?m)^  rpc ")
                self.assertRegex(described, r"(?m)^\s*// ", "comments travel with reflection")
        described = self.succeed("describe", "annals.v1.RecordedEvent").out
        self.assertIn("string correlation_id = 11;", described)

    def test_an_appended_event_is_read_back_as_readable_json(self):
        event = {
            "id": EVENT_ID,
            "type": "PaymentProcessed",
            "text": PAYMENT,
            "correlationId": "order-7",
            "causationId": "command-9",
            "metadata": {"organizationId": "org-1", "userId": "user-1"},
            "tags": ["region:eu", "card"],
            "occurredAt": "2021-03-04T05:06:07.123456789Z",
        }
        stream = "Payment-readable"
        request = {"stream": stream, "events": [event], "expectedVersion": "0"}
        appended = self.succeed("annals.v1.CommandService/Append", data=request).message
        self.assertEqual(appended["version"], "1")
        position = appended["position"]

        read = self.succeed("annals.v1.QueryService/ReadStream", data={"stream": stream})
        (recorded,) = annals.events(read.messages)
        self.assertEqual({name: recorded.get(name) for name in event}, event)
        self.assertEqual(recorded["stream"], stream)
        self.assertEqual(recorded["version"], "1")
        self.assertEqual(recorded["position"], position)
        self.assertRegex(recorded["recordedAt"], r"^20\d\d-.*Z$")
        self.assertEqual(json.loads(recorded["text"]), {"amount": "12.50", "currency": "EUR"})
        self.assertIn(EVENT_ID, read.out)

        everything = self.succeed("annals.v1.QueryService/ReadAll", data={"minPosition": position})
        self.assertIn(recorded, annals.events(everything.messages))
        one = self.succeed("annals.v1.QueryService/GetEvent", data={"id": EVENT_ID}).message
        self.assertEqual(one["event"], recorded)

        # A repeat, whatever it expects, is answered as the first and writes nothing.
        repeated = self.succeed("annals.v1.CommandService/Append", data=request).message
        self.assertEqual(repeated, {**appended, "duplicate": True})

    def test_json_as_bytes_is_recorded_as_text(self):
        # `{"a":1}` in base64, as the JSON form of a bytes field wants it.
        event = {"type": "Made", "binary": "eyJhIjoxfQ==", "contentType": "application/json"}
        self.succeed("annals.v1.CommandService/Append", data={"stream": "Bytes-1", "events": [event]})
        read = self.succeed("annals.v1.QueryService/ReadStream", data={"stream": "Bytes-1"})
        self.assertEqual(annals.events(read.messages)[0]["text"], '{"a":1}')

    def test_a_stream_is_read_backwards_with_a_limit(self):
        self.append("Payment-backwards", "One", "Two", "Three")
        request = {"stream": "Payment-backwards", "direction": "DIRECTION_BACKWARDS", "limit": 2}
        read = self.succeed("annals.v1.QueryService/ReadStream", data=request)
        self.assertEqual([event["type"] for event in annals.events(read.messages)], ["Three", "Two"])

    def test_count_and_read_all_take_filters(self):
        self.append("Counted-1", "Opened", "Closed")
        self.append("Counted-2", "Opened")
        last = self.append("Other-1", "Opened")["position"]
        cases = [
            ([{"categories": ["Counted"]}], 3),
            ([{"categories": ["Counted"], "types": ["Opened"]}], 2),
            ([{"streams": ["Counted-1"]}, {"streams": ["Other-1"]}], 3),
            ([{"categories": ["Nothing"]}], 0),
        ]
        for filters, expected in cases:
            with self.subTest(filters):
                request = {"filters": filters, "minPosition": last}
                counted = self.succeed("annals.v1.QueryService/Count", data=request).message
                self.assertEqual(int(counted.get("count", 0)), expected)
                read = self.succeed("annals.v1.QueryService/ReadAll", data=request)
                self.assertEqual(len(annals.events(read.messages)), expected)

    def test_streams_categories_and_types_are_listed(self):
        self.append("Listed-b", "ListedType")
        self.append("Listed-a", "ListedType", "ListedType")
        streams = self.succeed("annals.v1.QueryService/ListStreams", data={"prefix": "Listed-"}).message
        found = [(stream["name"], stream["version"]) for stream in streams["streams"]]
        self.assertEqual(found, [("Listed-a", "2"), ("Listed-b", "1")])
        stream = self.succeed("annals.v1.QueryService/GetStream", data={"stream": "Listed-a"}).message
        self.assertEqual(stream["stream"], streams["streams"][0])
        categories = self.succeed("annals.v1.QueryService/ListCategories").message["categories"]
        self.assertIn(("Listed", "3"), [(category["name"], category["eventCount"]) for category in categories])
        types = self.succeed("annals.v1.QueryService/ListEventTypes").message["eventTypes"]
        self.assertIn(("ListedType", "3"), [(kind["name"], kind["eventCount"]) for kind in types])

    def test_a_subscription_sends_history_then_says_caught_up_then_goes_on_live(self):
        self.append("Live-1", "Before")
        request = {"filters": [{"streams": ["Live-1"]}], "heartbeatInterval": "1s"}
        with annals.follow(self.command("annals.v1.SubscriptionService/Subscribe", data=request)) as following:

            def upto(wanted):
                got = []
                while not got or wanted not in got[-1]:
                    got.append(following())
                return [message for message in got if "heartbeat" not in message or wanted == "heartbeat"]

            self.assertIn("subscriptionId", upto("confirmed")[0]["confirmed"])
            history = upto("caughtUp")
            past = annals.events([message.get("events", {}) for message in history])
            self.assertEqual([event["type"] for event in past], ["Before"])
            self.append("Live-2", "Elsewhere")
            self.append("Live-1", "After")
            live = annals.events([message.get("events", {}) for message in upto("events")])
            self.assertEqual([(event["type"], event["version"]) for event in live], [("After", "2")])
            self.assertIn("sentAt", upto("heartbeat")[-1]["heartbeat"])

    def test_a_subscription_ends_at_the_deadline_of_its_call(self):
        command = self.command("annals.v1.SubscriptionService/Subscribe", data={"fromNow": {}})
        answer = annals.call([*command[:1], "-max-time", "1", *command[1:]])
        self.assertIn("confirmed", answer.messages[0])
        self.assertIn("Code: DeadlineExceeded", answer.err)

    def test_a_wrong_expected_version_is_told_with_both_versions(self):
        self.append("Payment-conflict", "One", "Two")
        request = {"stream": "Payment-conflict", "events": [{"type": "Three"}], "expectedVersion": "1"}
        details = self.refuse("annals.v1.CommandService/Append", request, "FailedPrecondition")
        info = details["google.rpc.ErrorInfo"]
        self.assertEqual(info["reason"], "WRONG_EXPECTED_VERSION")
        self.assertEqual(info["metadata"], {"stream": "Payment-conflict", "expected": "1", "actual": "2"})
        stream = self.succeed("annals.v1.QueryService/GetStream", data={"stream": "Payment-conflict"})
        self.assertEqual(stream.message["stream"]["version"], "2", "a refusal writes nothing")

    def test_a_broken_condition_is_told_with_the_positions_that_broke_it(self):
        position = self.append("Payment-condition", "Opened")["position"]
        condition = {"filters": [{"streams": ["Payment-condition"]}]}
        request = {"stream": "Payment-other", "events": [{"type": "Opened"}], "conditions": [condition]}
        details = self.refuse("annals.v1.CommandService/Append", request, "FailedPrecondition")
        info = details["google.rpc.ErrorInfo"]
        self.assertEqual(info["reason"], "CONDITION_BROKEN")
        self.assertEqual(info["metadata"], {"condition": "0", "after": "0", "positions": position})

    def test_a_bad_request_names_each_field(self):
        good = {"stream": "Bad-1", "events": [{"type": "Opened"}]}
        zero = "00000000-0000-0000-0000-000000000000"
        cases = [
            ({**good, "stream": ""}, "stream"),
            ({**good, "stream": "s" * 513}, "stream"),
            ({**good, "events": []}, "events"),
            ({**good, "events": [{"type": ""}]}, "events[0].type"),
            ({**good, "events": [{"type": "Fine"}, {"type": "t" * 257}]}, "events[1].type"),
            ({**good, "events": [{"type": "Opened", "id": zero}]}, "events[0].id"),
            ({**good, "events": [{"type": "Opened", "id": "7"}]}, "events[0].id"),
            ({**good, "events": [{"type": "Opened", "contentType": "nonsense"}]}, "events[0].content_type"),
            ({**good, "events": [{"type": "Opened", "tags": ["a", "a"]}]}, "events[0].tags"),
        ]
        for request, field in cases:
            with self.subTest(field=field, request=str(request)[:80]):
                self.assertEqual(self.refused_fields("annals.v1.CommandService/Append", request), [field])
        details = self.refuse("annals.v1.QueryService/GetStream", {"stream": "Bad-1"}, "NotFound")
        self.assertEqual(details["google.rpc.ErrorInfo"]["reason"], "UNKNOWN_STREAM", "nothing was written")

    def test_a_commit_with_two_writes_to_one_stream_is_refused(self):
        write = {"stream": "Twice-1", "events": [{"type": "Opened"}]}
        request = {"writes": [write, write]}
        self.assertEqual(
            self.refused_fields("annals.v1.CommandService/Commit", request), ["writes[1].stream"]
        )

    def test_a_commit_writes_several_streams_as_one(self):
        writes = [{"stream": f"Commit-{n}", "events": [{"type": "Moved"}], "expectedVersion": 0} for n in (1, 2)]
        committed = self.succeed("annals.v1.CommandService/Commit", data={"writes": writes}).message
        self.assertEqual([result["version"] for result in committed["results"]], ["1", "1"])
        self.assertEqual(int(committed["position"]) - int(committed["firstPosition"]), 1)

    def test_a_read_model_is_written_found_and_watched(self):
        service = "annals.v1.ReadModelService"
        position = self.append("Read-1", "Opened", "Paid")["position"]
        create = {"model": "orders", "indexes": [{"fields": ["status", "amount"]}]}
        made = self.succeed(f"{service}/CreateModel", data=create).message["version"]
        self.assertEqual((made["version"], made["indexes"]), (1, create["indexes"]))
        document = '{"status": "open", "amount": 12.10}'
        writes = [
            {"key": "order-1", "upsert": document},
            {"key": "order-2", "merge": '{"status": "open", "amount": 7}'},
            {"key": "order-3", "delete": {}},
        ]
        request = {"model": "orders", "expectedCheckpoint": "0", "checkpoint": position, "writes": writes}
        applied = self.succeed(f"{service}/Apply", data=request).message
        self.assertEqual(applied, {"checkpoint": position, "documentCount": "2"})
        details = self.refuse(f"{service}/Apply", request, "FailedPrecondition")
        info = details["google.rpc.ErrorInfo"]
        self.assertEqual(info["reason"], "WRONG_CHECKPOINT")
        self.assertEqual((info["metadata"]["expected"], info["metadata"]["actual"]), ("0", position))

        request = {"model": "orders", "key": "order-1", "minPosition": position}
        got = self.succeed(f"{service}/Get", data=request).message
        self.assertEqual(got["document"], {"key": "order-1", "json": document, "position": position})
        matches = [{"field": "status", "value": "open"}]
        request = {"model": "orders", "matches": matches, "orderBy": "amount"}
        found = self.succeed(f"{service}/Find", data=request).message
        self.assertEqual([found["key"] for found in found["documents"]], ["order-2", "order-1"])
        request = {"model": "orders", "matches": [{"field": "total", "value": 1}]}
        details = self.refuse(f"{service}/Find", request, "FailedPrecondition")
        self.assertEqual(details["google.rpc.ErrorInfo"]["reason"], "NOT_INDEXED")

        request = {"model": "orders", "matches": matches, "heartbeatInterval": "1s"}
        with annals.follow(self.command(f"{service}/Watch", data=request)) as following:
            upserts = following()["changes"]["upserts"]
            self.assertEqual({upsert["key"] for upsert in upserts}, {"order-1", "order-2"})
            self.assertEqual(following()["caughtUp"], {"checkpoint": position, "version": 1})
            self.assertIn("heartbeat", following())

    def test_the_read_model_of_the_documentation_works_as_it_is_typed(self):
        text = (annals.ROOT / "docs" / "grpcurl.md").read_text()
        section = text[text.index("**Keep.**") : text.index("**Follow.**")]
        self.append("Payment-1", "PaymentProcessed")
        blocks = re.findall(r"```sh\n(.*?)```", section, re.S)
        commands = [f"grpcurl{rest}" for block in blocks for rest in block.split("grpcurl")[1:]]
        self.assertEqual(len(commands), 9)
        for command in commands:
            with self.subTest(command):
                endless = command.rstrip().endswith("/Watch")
                # What is typed, but for the model's name: this server has one of that name already.
                typed = command.replace('"orders"', '"documented"')
                if endless:
                    typed = typed.replace("grpcurl", "grpcurl -max-time 2", 1)
                answer = annals.call(["bash", "-c", f"A={self.address}; {typed}"])
                if endless:
                    self.assertIn("caughtUp", answer.out)
                    self.assertIn("Code: DeadlineExceeded", answer.err)
                else:
                    self.assertEqual(answer.code, 0, answer.err)

    def test_health_is_told_for_each_service_and_for_the_whole(self):
        for service in ["", *annals.SERVICES]:
            with self.subTest(service):
                checked = self.succeed("grpc.health.v1.Health/Check", data={"service": service})
                self.assertEqual(checked.message, {"status": "SERVING"})
        unknown = annals.call(self.command("grpc.health.v1.Health/Check", data={"service": "No.Such"}))
        self.assertIn("Code: NotFound", unknown.err)

    def test_info_tells_mode_and_head(self):
        position = self.append("Info-1", "Opened")["position"]
        info = self.succeed("annals.v1.AdminService/GetInfo").message
        self.assertEqual(info["mode"], "MODE_MEMORY")
        self.assertEqual(info["head"], position)
        self.assertRegex(info["version"], r"^\d+\.\d+\.\d+")
        self.assertEqual(info["limits"]["streamNameBytesMax"], 512)


if __name__ == "__main__":
    unittest.main()
