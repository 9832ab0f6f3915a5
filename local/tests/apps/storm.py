"""An agent's server for the storm: it notes in the folder of its first argument what it does."""

import json
import os
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.answer(200, {"status": "Healthy"})

    def do_POST(self):
        task = json.loads(self.rfile.read(int(self.headers["content-length"])))
        notes = Path(sys.argv[1]) / self.headers["X-Amzn-Bedrock-AgentCore-Runtime-Session-Id"]
        with notes.open("a") as file:
            print("begun", file=file)
        time.sleep(task["seconds"])
        with notes.open("a") as file:
            print("done", file=file)
        self.answer(500 if task["fails"] else 200, task["seconds"])

    def answer(self, status, value):
        self.send_response(status)
        self.end_headers()
        self.wfile.write(json.dumps(value).encode())

    def log_message(self, *_):
        pass


ThreadingHTTPServer(("127.0.0.1", int(os.environ["PORT"])), Handler).serve_forever()
