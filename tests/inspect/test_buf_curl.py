"""`buf curl`: a second client, which speaks both versions of reflection."""

import base64
import json
import unittest

import annals


class BufCurl(annals.Inspection):
    def command(self, *words, path="", reflection="grpc-v1", data=None):
        options = ["-d", json.dumps(data)] if data is not None else []
        protocol = ["--protocol", "grpc", "--http2-prior-knowledge", "--reflect-protocol", reflection]
        return ["buf", "curl", *protocol, *words, *options, f"http://{self.address}{path}"]

    def succeed(self, *words, **more):
        answer = annals.call(self.command(*words, **more))
        self.assertEqual(answer.code, 0, answer.err)
        return answer

    def test_both_versions_of_reflection_list_services_and_methods(self):
        for reflection in ("grpc-v1", "grpc-v1alpha"):
            with self.subTest(reflection):
                services = self.succeed("--list-services", reflection=reflection).out.split()
                self.assertLessEqual(set(annals.SERVICES), set(services))
                methods = self.succeed("--list-methods", reflection=reflection).out.split()
                for method in (
                    "annals.v1.CommandService/Append",
                    "annals.v1.CommandService/AppendStream",
                    "annals.v1.QueryService/ReadAll",
                    "annals.v1.SubscriptionService/Subscribe",
                    "grpc.health.v1.Health/Watch",
                ):
                    self.assertIn(method, methods)

    def test_append_then_read(self):
        for reflection in ("grpc-v1", "grpc-v1alpha"):
            with self.subTest(reflection):
                stream = f"Buf-{reflection}"
                event = {"type": "Opened", "text": '{"by":"buf"}', "metadata": {"userId": "user-1"}}
                request = {"stream": stream, "events": [event], "expectedVersion": 0}
                path = "/annals.v1.CommandService/Append"
                appended = self.succeed(path=path, data=request, reflection=reflection).message
                self.assertEqual(appended["version"], "1")
                path = "/annals.v1.QueryService/ReadStream"
                read = self.succeed(path=path, data={"stream": stream}, reflection=reflection)
                (recorded,) = annals.events(read.messages)
                self.assertEqual({name: recorded[name] for name in event}, event)

    def test_a_subscription_is_followed(self):
        request = {"stream": "BufLive-1", "events": [{"type": "Opened"}]}
        self.succeed(path="/annals.v1.CommandService/Append", data=request)
        subscribe = {"filters": [{"categories": ["BufLive"]}], "after": "0"}
        path = "/annals.v1.SubscriptionService/Subscribe"
        with annals.follow(self.command(path=path, data=subscribe)) as following:
            kinds = []
            while kinds[-1:] != ["caughtUp"]:
                # Beside the message may stand what is told of its events.
                kinds += following().keys() - {"pending", "replaying"}
            self.assertEqual(kinds, ["confirmed", "events", "caughtUp"])
            self.succeed(path="/annals.v1.CommandService/Append", data=request)
            self.assertEqual(following()["events"]["events"][0]["version"], "2")

    def test_appends_are_pipelined_and_a_refused_one_does_not_end_the_stream(self):
        def append(expected):
            append = {"stream": "BufPipe-1", "events": [{"type": "Opened"}], "expectedVersion": expected}
            return json.dumps({"append": append})

        path = "/annals.v1.CommandService/AppendStream"
        command = [*self.command(path=path), "-d", append(0) + append(7) + append(1)]
        answer = annals.call(command)
        self.assertEqual(answer.code, 0, answer.err)
        first, second, third = answer.messages
        self.assertEqual([message["request"] for message in answer.messages], ["1", "2", "3"])
        self.assertEqual(first["appended"]["version"], "1")
        self.assertEqual(second["error"]["code"], 9)
        self.assertEqual(second["error"]["details"][0]["reason"], "WRONG_EXPECTED_VERSION")
        self.assertEqual(third["appended"]["version"], "2")

    def test_an_error_carries_its_reason(self):
        answer = annals.call(self.command(path="/annals.v1.QueryService/GetStream", data={"stream": "Buf-none"}))
        self.assertNotEqual(answer.code, 0)
        (error,) = annals.documents(answer.err)
        self.assertEqual(error["code"], "not_found")
        details = {detail["type"]: detail for detail in error["details"]}
        info = base64.b64decode(details["google.rpc.ErrorInfo"]["value"] + "==")
        self.assertIn(b"UNKNOWN_STREAM", info)


if __name__ == "__main__":
    unittest.main()
