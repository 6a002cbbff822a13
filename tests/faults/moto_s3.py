"""An S3 server in memory that honours `If-None-Match` as AWS does (moto); rclone, which keeps objects, does not.

Alone: `python tests/faults/moto_s3.py --help`. It answers one request after the other, since moto itself looks for the
object first and then writes.
"""

import argparse
import subprocess
import sys
from types import TracebackType

BUCKET = "bucket"


class MotoServer:
    """The server in a process of its own, with an empty bucket `BUCKET`; a context manager."""

    def __init__(self) -> None:
        self.port = 0
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> "MotoServer":
        # A Ctrl-C in the terminal is for the pipeline.
        self._process = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
        )
        assert self._process.stdout is not None
        self.port = int(self._process.stdout.readline())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.communicate()


def main() -> None:
    """Print the port, then serve until the end."""
    parser = argparse.ArgumentParser(description="Serve S3 from memory, with conditional creation.")
    parser.add_argument("--port", type=int, default=0, help="a free one by default")
    options = parser.parse_args()
    import logging

    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
    from moto.s3.models import s3_backends
    from werkzeug.serving import make_server

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    s3_backends["123456789012"]["aws"].create_bucket(BUCKET, "us-east-1")
    application = DomainDispatcherApplication(create_backend_app)
    server = make_server("127.0.0.1", options.port, application, threaded=False, request_handler=MotoRequestHandler)
    print(server.server_port, flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
