"""An agent's server with the faults that a real one does not produce on demand. The input names what
it does: {"do": "..."}."""

import json
import os
import signal
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

busy_until = 0.0
endless_ping = False
dying = False


def terminated(*_):
    print("told to end", file=sys.stderr, flush=True)
    os._exit(0)


signal.signal(signal.SIGTERM, terminated)
if len(sys.argv) > 1 and sys.argv[1] == "stubborn":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
if len(sys.argv) > 1 and sys.argv[1] == "slow":
    print("starting", file=sys.stderr, flush=True)
    time.sleep(1.5)
if len(sys.argv) > 1 and sys.argv[1] == "broken":
    import a_module_that_is_not_there
if len(sys.argv) > 1 and sys.argv[1] == "deaf":
    print("I listen elsewhere", file=sys.stderr, flush=True)
    time.sleep(600)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        if dying:  # A ping may come between the answer and the end.
            os._exit(5)
        if endless_ping:
            self.send_response(200)
            self.end_headers()
            while True:
                self.wfile.write(b"x" * 1_000_000)
        busy = time.monotonic() < busy_until
        self.answer(200, json.dumps({"status": "HealthyBusy" if busy else "Healthy", "time_of_last_update": 1}))

    def do_POST(self):
        global busy_until, endless_ping, dying
        body = self.rfile.read(int(self.headers["content-length"])).decode()
        task = json.loads(body)
        do = task["do"]
        if do == "echo":
            headers = {name.lower(): value for name, value in self.headers.items()}
            self.answer(200, json.dumps({
                "body": body, "path": self.path, "headers": headers, "environment": dict(os.environ),
            }))
        elif do == "pid":
            self.answer(200, str(os.getpid()))
        elif do == "sleep":
            time.sleep(task["seconds"])
            self.answer(200, '"slept"')
        elif do == "text":
            self.answer(200, "two words")
        elif do == "large":
            text = json.dumps(["x" * 100] * 10_000)
            self.send_response(200)
            self.send_header("content-length", str(len(text) * 30))
            self.end_headers()
            for _ in range(30):
                self.wfile.write(text.encode())
        elif do == "early":
            busy_until = time.monotonic() + task["seconds"]
            self.answer(200, '"early"')
        elif do == "early and die":
            busy_until = time.monotonic() + 600
            self.answer(200, '"early"')
            threading.Timer(1, lambda: os._exit(5)).start()
        elif do == "half and die":
            self.protocol_version = "HTTP/1.0"
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"{\"half\": [")
            self.wfile.flush()
            os._exit(5)
        elif do == "answer and die":
            dying = True
            self.answer(200, "7")
            self.wfile.flush()
            os._exit(5)
        elif do == "endless ping":
            endless_ping = True
            self.answer(200, "7")
        elif do == "retry and refuse":
            try:
                {}["retry"]
            except KeyError:
                import traceback
                print(traceback.format_exc(), file=sys.stderr, flush=True)
            self.answer(500, json.dumps({"error": "no tokens left"}))
        elif do == "refuse":
            self.answer(task["status"], task["text"])
        elif do == "log and refuse":
            raise ValueError("only in the log")
        elif do == "redirect":
            self.send_response(307)
            self.send_header("location", "http://127.0.0.1:1/")
            self.send_header("content-length", "0")
            self.end_headers()
        elif do == "drop":
            self.connection.close()
            self.close_connection = True
        elif do == "die":
            print("last words", file=sys.stderr, flush=True)
            os._exit(5)
        elif do == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        elif do == "stream":
            self.stream(task["parts"], task.get("whole", True))
        elif do == "progress":
            os.write(int(os.environ["PROGRESS_FD"]), b"started plan two files\n")
            time.sleep(task.get("seconds", 0))
            self.answer(200, "7")

    def answer(self, status, text):
        self.send_response(status)
        self.send_header("content-length", str(len(text.encode())))
        self.end_headers()
        self.wfile.write(text.encode())

    def stream(self, parts, whole):
        self.send_response(200)
        self.send_header("content-type", "text/event-stream; charset=utf-8")
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()
        for part in parts:
            self.wfile.write(f"{len(part.encode()):x}\r\n{part}\r\n".encode())
            self.wfile.flush()
        if whole:
            self.wfile.write(b"0\r\n\r\n")
        self.close_connection = True

    def log_message(self, *_):
        pass


class Server(ThreadingHTTPServer):
    def handle_error(self, request, address):
        # As a web framework does it: the traceback into the log, and an answer without a reason.
        import traceback
        print("request failed", traceback.format_exc(), sep="\n", file=sys.stderr, flush=True)
        request.sendall(b"HTTP/1.1 500 Internal Server Error\r\ncontent-length: 0\r\n\r\n")


print("serving", flush=True)
Server(("127.0.0.1", int(os.environ["PORT"])), Handler).serve_forever()
