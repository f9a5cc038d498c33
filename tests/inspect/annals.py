"""The built server as a process, and clients as processes, for the tests beside this file.

Nothing here knows our stubs: the tests see Annals as a stranger does who has an address, a tool, and
what reflection says. `ANNALS` is the binary, and the tools are on PATH: scripts/test sees to both.
"""

import contextlib
import json
import os
import pathlib
import queue
import re
import signal
import subprocess
import threading
import time
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[2]
BINARY = ROOT / os.environ.get("ANNALS", "target/debug/annals")
SERVICES = [
    "annals.v1.AdminService",
    "annals.v1.CommandService",
    "annals.v1.QueryService",
    "annals.v1.ReadModelService",
    "annals.v1.SubscriptionService",
]
START_SECONDS = 20
STOP_SECONDS = 20
CALL_SECONDS = 30


class Output:
    """What a process writes, line by line, read by a thread of its own so that no pipe fills up."""

    def __init__(self, stream):
        self.lines = []
        self._queue = queue.Queue()
        threading.Thread(target=self._read, args=(stream,), daemon=True).start()

    def _read(self, stream):
        with stream:
            for line in stream:
                self.lines.append(line)
                self._queue.put(line)
        self._queue.put(None)

    def next(self, deadline):
        """The next line, or None at the end and at the deadline (time.monotonic)."""
        try:
            return self._queue.get(timeout=max(0.0, deadline - time.monotonic()))
        except queue.Empty:
            return None

    def text(self):
        return "".join(self.lines)


class Server:
    """`annals serve` on a free port of the loopback, in memory unless the options say where."""

    def __init__(self, *options):
        self.process = subprocess.Popen(
            [BINARY, "serve", "--listen", "127.0.0.1:0", *options],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            text=True,
        )
        self.log = Output(self.process.stdout)
        try:
            self.address = self._wait_for_address()
        except BaseException:
            self.process.kill()
            self.process.wait()
            raise

    def _wait_for_address(self):
        deadline = time.monotonic() + START_SECONDS
        while line := self.log.next(deadline):
            found = re.search(r"\baddress=(127\.0\.0\.1:[1-9]\d*)\b", line)
            if found and "listening" in line:
                return found[1]
        raise AssertionError(f"the server never said where it listens:\n{self.log.text()}")

    def stop(self):
        """Asks it to stop, as a service manager would; its exit code."""
        self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise AssertionError(
                f"still there {STOP_SECONDS} s after SIGTERM:\n{self.log.text()}"
            ) from None


class Inspection(unittest.TestCase):
    """A server of its own for each class; it must end well when it is asked to stop."""

    maxDiff = None

    @classmethod
    def setUpClass(cls):
        cls.server = Server()
        cls.address = cls.server.address

    @classmethod
    def tearDownClass(cls):
        code = cls.server.stop()
        if code != 0:
            raise AssertionError(f"exit code {code} after SIGTERM:\n{cls.server.log.text()}")


class Answer:
    """What a tool answered: its exit code, the JSON documents on its standard output, its words."""

    def __init__(self, code, out, err):
        self.code, self.out, self.err = code, out, err

    @property
    def messages(self):
        return documents(self.out)

    @property
    def message(self):
        (message,) = self.messages
        return message


def call(command):
    """Runs a client to its end. It never takes long, or the server hangs."""
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=CALL_SECONDS,
        check=False,
    )
    return Answer(done.returncode, done.stdout, done.stderr)


@contextlib.contextmanager
def follow(command):
    """Runs a client that does not end by itself; gives a function that waits for its next message."""
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
        text=True,
    )
    out, err = Output(process.stdout), Output(process.stderr)
    taken = 0

    def next_message():
        nonlocal taken
        deadline = time.monotonic() + CALL_SECONDS
        while len(messages := documents(out.text())) <= taken:
            if out.next(deadline) is None:
                raise AssertionError(f"no further message after:\n{out.text()}\n{err.text()}")
        taken += 1
        return messages[taken - 1]

    try:
        yield next_message
    finally:
        process.terminate()
        process.wait(CALL_SECONDS)


def documents(text):
    """JSON documents one after the other, however they are spaced; half a one at the end is left."""
    decoder, found, index = json.JSONDecoder(), [], 0
    while True:
        while index < len(text) and text[index].isspace():
            index += 1
        try:
            document, index = decoder.raw_decode(text, index)
        except json.JSONDecodeError:
            return found
        found.append(document)


def events(messages):
    """The events of batches."""
    return [event for message in messages for event in message.get("events", [])]
