"""Python's gRPC with messages built from reflection alone, and what only raw bytes can show."""

import contextlib
import queue
import socket
import struct
import threading
import unittest

import grpc
from google.protobuf import descriptor_pool, message_factory
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

import annals

RPC_STATUS = "google.rpc.Status"


class Stranger:
    """A client that knows an address and nothing else."""

    def __init__(self, address, compression=None):
        self.channel = grpc.insecure_channel(address, compression=compression)
        self.database = ProtoReflectionDescriptorDatabase(self.channel)
        self.pool = descriptor_pool.DescriptorPool(self.database)

    def close(self):
        self.channel.close()

    def type(self, name):
        return message_factory.GetMessageClass(self.pool.FindMessageTypeByName(name))

    def method(self, path, raw=False, channel=None):
        """A callable for `annals.v1.Service/Method`, of the kind that reflection says it is."""
        service, name = path.split("/")
        method = self.pool.FindServiceByName(service).FindMethodByName(name)
        sides = ("stream" if method.client_streaming else "unary", "stream" if method.server_streaming else "unary")
        request = message_factory.GetMessageClass(method.input_type)
        response = message_factory.GetMessageClass(method.output_type)
        multicallable = getattr(channel or self.channel, "_".join(sides))(
            f"/{path}",
            request_serializer=(lambda data: data) if raw else request.SerializeToString,
            response_deserializer=response.FromString,
        )
        if raw or method.client_streaming:
            return lambda data, **more: multicallable(data, timeout=annals.CALL_SECONDS, **more)
        return lambda **fields: multicallable(request(**fields), timeout=annals.CALL_SECONDS)

    def details(self, error):
        """The details of a failed call, by their type."""
        for key, value in error.trailing_metadata() or ():
            if key == "grpc-status-details-bin":
                return self.unpack(self.type(RPC_STATUS).FromString(value).details)
        return {}

    def unpack(self, details):
        found = {}
        for detail in details:
            name = detail.type_url.rsplit("/", 1)[-1]
            found[name] = self.type(name).FromString(detail.value)
        return found


class PythonReflection(annals.Inspection):
    def setUp(self):
        self.stranger = Stranger(self.address)
        self.addCleanup(self.stranger.close)

    def test_services_are_found(self):
        self.assertLessEqual(set(annals.SERVICES), set(self.stranger.database.get_services()))

    def test_append_then_read(self):
        event = {"type": "PaymentProcessed", "text": '{"amount":1}', "tags": ["a", "b"], "metadata": {"k": "v"}}
        append = self.stranger.method("annals.v1.CommandService/Append")
        appended = append(stream="Python-1", events=[event], expected_version=0)
        self.assertEqual(appended.version, 1)
        read = self.stranger.method("annals.v1.QueryService/ReadStream")
        (recorded,) = [event for batch in read(stream="Python-1") for event in batch.events]
        self.assertEqual(recorded.position, appended.position)
        self.assertEqual((recorded.type, recorded.text), (event["type"], event["text"]))
        self.assertEqual((list(recorded.tags), dict(recorded.metadata)), (event["tags"], event["metadata"]))
        self.assertEqual(recorded.recorded_at, recorded.occurred_at)

    def test_a_subscription_is_followed(self):
        append = self.stranger.method("annals.v1.CommandService/Append")
        position = append(stream="PythonLive-1", events=[{"type": "Before"}]).position
        subscribe = self.stranger.method("annals.v1.SubscriptionService/Subscribe")
        call = subscribe(after=position)
        self.assertEqual(next(call).confirmed.after, position)
        self.assertEqual(next(call).WhichOneof("message"), "caught_up")
        append(stream="PythonLive-1", events=[{"type": "After"}])
        (event,) = next(call).events.events
        self.assertEqual((event.type, event.position), ("After", position + 1))
        call.cancel()

    def test_a_refused_append_does_not_end_the_pipeline(self):
        request = self.stranger.type("annals.v1.AppendStreamRequest")
        requests = queue.Queue()
        call = self.stranger.method("annals.v1.CommandService/AppendStream")(iter(requests.get, None))

        def answer_to(stream, expected):
            append = {"stream": stream, "events": [{"type": "Opened"}], "expected_version": expected}
            requests.put(request(append=append))
            return next(call)

        # One at a time: the answer must come before the next request is there.
        self.assertEqual(answer_to("PythonPipe-1", 0).appended.version, 1)
        refused = answer_to("PythonPipe-1", 0)
        self.assertEqual((refused.request, refused.WhichOneof("result")), (2, "error"))
        self.assertEqual(refused.error.code, grpc.StatusCode.FAILED_PRECONDITION.value[0])
        info = self.stranger.unpack(refused.error.details)["google.rpc.ErrorInfo"]
        self.assertEqual((info.reason, info.domain), ("WRONG_EXPECTED_VERSION", "annals"))
        self.assertEqual((info.metadata["expected"], info.metadata["actual"]), ("0", "1"))
        invalid = answer_to("", 0)
        self.assertEqual(invalid.error.code, grpc.StatusCode.INVALID_ARGUMENT.value[0])
        self.assertEqual(answer_to("PythonPipe-1", 1).appended.version, 2)
        requests.put(None)
        self.assertEqual(list(call), [])
        self.assertEqual(call.code(), grpc.StatusCode.OK)

    def test_invalid_utf8_is_the_clients_fault_and_names_the_field(self):
        append = self.stranger.method("annals.v1.CommandService/Append", raw=True)
        no_utf8 = b"\x02\xff\xfe"
        cases = (
            (b"\x0a" + no_utf8, ["stream"]),
            (b"\x0a\x01x\x12\x04\x12" + no_utf8, ["events[0].type"]),
            (b"\x0a\x7f", None),  # Shorter than it says.
            (b"\x0f", None),  # A wire type that does not exist.
        )
        for request, named in cases:
            with self.subTest(request):
                with self.assertRaises(grpc.RpcError) as raised:
                    append(request)
                self.assertEqual(raised.exception.code(), grpc.StatusCode.INVALID_ARGUMENT)
                details = self.stranger.details(raised.exception)
                self.assertEqual(details["google.rpc.ErrorInfo"].reason, "INVALID_REQUEST")
                fields = [violation.field for violation in details["google.rpc.BadRequest"].field_violations]
                self.assertEqual(fields, named or fields)

    def test_a_compressed_request_is_accepted_and_the_answer_is_not_compressed(self):
        text = '"' + "a" * 20_000 + '"'
        with (
            Listener(self.address) as listener,
            grpc.insecure_channel(listener.address, compression=grpc.Compression.Gzip) as channel,
        ):
            append = self.stranger.method("annals.v1.CommandService/Append", channel=channel)
            self.assertEqual(append(stream="Zipped-1", events=[{"type": "Long", "text": text}]).version, 1)
            read = self.stranger.method("annals.v1.QueryService/ReadStream", channel=channel)
            (recorded,) = [event for batch in read(stream="Zipped-1") for event in batch.events]
            self.assertEqual(recorded.text, text)
        up, down = listener.sent()
        self.assertIn(1, compressed_flags(up), "the client did compress")
        self.assertEqual(compressed_flags(down), {0})
        self.assertGreater(len(down), len(text), "the text came back as it is")

    def test_a_client_that_compresses_everything_can_look_around_too(self):
        stranger = Stranger(self.address, grpc.Compression.Gzip)
        self.addCleanup(stranger.close)
        self.assertIn("annals.v1.CommandService", stranger.database.get_services())
        check = stranger.method("grpc.health.v1.Health/Check")
        self.assertEqual(check(service="annals.v1.CommandService").status, 1)

    def test_an_open_subscription_is_told_where_to_resume_when_the_server_stops(self):
        server = annals.Server()
        stranger = Stranger(server.address)
        self.addCleanup(stranger.close)
        append = stranger.method("annals.v1.CommandService/Append")
        position = append(stream="Stop-1", events=[{"type": "Opened"}]).position
        call = stranger.method("annals.v1.SubscriptionService/Subscribe")()
        while next(call).WhichOneof("message") != "caught_up":
            pass
        stopped = []
        stopping = threading.Thread(target=lambda: stopped.append(server.stop()))
        stopping.start()
        with self.assertRaises(grpc.RpcError) as raised:
            next(call)
        self.assertEqual(raised.exception.code(), grpc.StatusCode.UNAVAILABLE)
        trailers = dict(raised.exception.trailing_metadata())
        status = self.stranger.type(RPC_STATUS).FromString(trailers["grpc-status-details-bin"])
        info = self.stranger.unpack(status.details)["google.rpc.ErrorInfo"]
        self.assertEqual((info.reason, info.metadata["resume_after"]), ("SHUTTING_DOWN", str(position)))
        stopping.join()
        self.assertEqual(stopped, [0], server.log.text())


class Listener:
    """Stands between a client and the server and keeps what each has sent."""

    def __init__(self, address):
        host, port = address.split(":")
        self._server = (host, int(port))
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.address = "127.0.0.1:%d" % self._socket.getsockname()[1]
        self._up, self._down = bytearray(), bytearray()
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._thread.join(annals.CALL_SECONDS)
        self._socket.close()

    def _accept(self):
        with contextlib.suppress(OSError):
            client, _ = self._socket.accept()  # The first connection only, so that frames do not mix.
            with client, socket.create_connection(self._server) as server:
                down = threading.Thread(target=self._pass_on, args=(server, client, self._down))
                down.start()
                self._pass_on(client, server, self._up)
                down.join()

    @staticmethod
    def _pass_on(source, sink, kept):
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                kept += data
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)

    def sent(self):
        """What the client sent after HTTP/2's preface, and what the server sent."""
        preface = len(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
        return bytes(self._up[preface:]), bytes(self._down)


def compressed_flags(connection):
    """The flags of all gRPC messages in one direction of an HTTP/2 connection: 0 plain, 1 compressed."""
    streams, index = {}, 0
    while index + 9 <= len(connection):
        length = int.from_bytes(connection[index : index + 3], "big")
        kind, flags = connection[index + 3], connection[index + 4]
        stream = int.from_bytes(connection[index + 5 : index + 9], "big")
        payload = connection[index + 9 : index + 9 + length]
        if kind == 0:  # DATA
            if flags & 0x8:  # PADDED
                payload = payload[1 : len(payload) - payload[0]]
            streams.setdefault(stream, bytearray()).extend(payload)
        index += 9 + length
    found = set()
    for data in streams.values():
        index = 0
        while index + 5 <= len(data):
            flag, length = struct.unpack_from(">BI", data, index)
            found.add(flag)
            index += 5 + length
    return found


if __name__ == "__main__":
    unittest.main()
