"""What is reported of servers that do not offer an archive, and how long that takes."""

import contextlib
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import tensorflow_datasets as tfds

from keras_imnet64.core.errors import UserError
from keras_imnet64.data import datasets
from keras_imnet64.data.sources import downloads, imagenet_resized
from keras_imnet64.data.sources.downloads import limit_downloads, unavailable_reason

NAMES = ("Imagenet8_train_npz.zip", "Imagenet8_val_npz.zip")


class Handler(BaseHTTPRequestHandler):
    """Answers /<status>/<kind>/<length> with such a response; /moved redirects to a login page."""

    def do_GET(self):
        if self.path == "/moved":
            self.send_response(302)
            self.send_header("Location", "/200/html/20")
            self.end_headers()
            return
        _, status, kind, length = self.path.split("/")
        self.send_response(int(status))
        self.send_header("Content-Type", {"html": "text/html", "zip": "application/zip"}[kind])
        if length != "unknown":
            self.send_header("Content-Length", length)
        self.end_headers()

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def server():
    """Yields the address of a server on this machine."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture
def listener():
    """Yields the socket of a server that accepts connections and sends nothing."""
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as listener:
        yield listener


@pytest.fixture
def silent(listener):
    """The address of that server."""
    return f"http://127.0.0.1:{listener.getsockname()[1]}"


def connections_to(listener):
    """How many connections were made to a listening socket."""
    listener.setblocking(False)
    count = 0
    with contextlib.suppress(BlockingIOError):
        while True:
            listener.accept()[0].close()
            count += 1
    return count


@pytest.fixture(autouse=True)
def short_limits(monkeypatch):
    """Sets short time limits, and ignores the proxy of this machine."""
    monkeypatch.setattr(downloads, "REQUEST_SECONDS", 0.5)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.mark.parametrize(
    ("path", "why"),
    [
        ("/200/zip/70", None),
        ("/403/html/70", "127.0.0.1 answers with status 403 Forbidden"),
        ("/404/html/70", "127.0.0.1 answers with status 404 Not Found"),
        ("/503/zip/70", "127.0.0.1 answers with status 503 Service Unavailable"),
        ("/200/html/70", "127.0.0.1 answers with a web page, as it does where a login is needed"),
        ("/moved", "127.0.0.1 answers with a web page, as it does where a login is needed"),
        ("/200/zip/71", "127.0.0.1 offers a file of 71 bytes where 70 bytes are published"),
        (
            "/200/zip/unknown",
            "127.0.0.1 offers a file of unknown size where 70 bytes are published",
        ),
    ],
)
def test_servers_that_do_not_offer_the_file(server, path, why):
    assert unavailable_reason({f"{server}/200/zip/5": 5, server + path: 70}) == why


def test_a_silent_server_is_not_waited_for(silent, listener):
    """The request itself gives up too: it closes its connection, which otherwise stayed open."""
    assert unavailable_reason({silent: 1}) == "127.0.0.1 did not answer within 0.5 seconds"
    connection, _ = listener.accept()
    with connection:
        connection.settimeout(20)
        received = b"".join(iter(lambda: connection.recv(65536), b""))  # until it is closed
    assert received.startswith(b"GET / ")


def test_a_silent_proxy_and_one_that_refuses(silent, monkeypatch):
    monkeypatch.setenv("http_proxy", silent)
    asked = {"http://image-net.invalid/a.zip": 1}
    assert unavailable_reason(asked) == "image-net.invalid did not answer within 0.5 seconds"
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    assert unavailable_reason(asked) == "the proxy refuses the connection to image-net.invalid"


def test_host_names_that_are_not_resolved(monkeypatch):
    """Whoever waited for the first look-up would get its error in place of the sentence."""
    is_over = threading.Event()

    def wait(*_, **__):
        is_over.wait(60)
        raise socket.gaierror(-3, "Temporary failure in name resolution")

    monkeypatch.setattr(socket, "getaddrinfo", wait)
    asked = {"http://image-net.invalid/a.zip": 1}
    assert unavailable_reason(asked) == "image-net.invalid did not answer within 0.5 seconds"
    is_over.set()

    def refuse(*_, **__):
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    assert unavailable_reason(asked) == "there is no connection to image-net.invalid"


def test_a_download_that_stalls_is_given_up_after_two_retries(
    silent, listener, tmp_path, monkeypatch
):
    monkeypatch.setattr(downloads, "SILENT_SECONDS", 0.2)
    manager = tfds.download.DownloadManager(download_dir=tmp_path)
    with limit_downloads(), pytest.raises(Exception, match=r"[Rr]ead timed out"):
        manager.download([f"{silent}/a.zip"])
    assert connections_to(listener) == 3


# -------------------------------------------------------------------------------- preparing a set


def test_the_error_names_the_archives_to_fetch_and_nothing_is_left(tmp_path, monkeypatch):
    monkeypatch.setattr(imagenet_resized, "unavailable_reason", lambda sizes: "no network")
    with pytest.raises(UserError) as refusal:
        datasets.prepare("imagenet_resized/8x8", data_dir=tmp_path)
    assert str(refusal.value) == (
        "imagenet_resized/8x8/0.1.0 cannot be downloaded (no network): get "
        "Imagenet8_train_npz.zip, Imagenet8_val_npz.zip from https://image-net.org/download-images,"
        " which needs a login, and pass their folder with --source"
    )
    assert list(tmp_path.iterdir()) == []


def test_the_server_is_not_asked_for_archives_that_are_present(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(imagenet_resized, "unavailable_reason", lambda sizes: asked.append(sizes))
    builder = imagenet_resized.builder_of("imagenet_resized", 8, tmp_path)
    imagenet_resized._check_downloads(builder)
    assert [url.rpartition("/")[2] for url in asked[0]] == [*NAMES]
    assert list(asked[0].values()) == [239296243, 9327124]
    manual = tmp_path / "downloads" / "manual"
    manual.mkdir(parents=True)
    (manual / NAMES[0]).touch()
    imagenet_resized._check_downloads(builder)
    assert [url.rpartition("/")[2] for url in asked[1]] == [NAMES[1]]
    manager = builder._make_download_manager(
        download_dir=tmp_path / "downloads", download_config=tfds.download.DownloadConfig()
    )
    [url] = asked[1]
    resource = tfds.core.download.resource.Resource(url=url)
    cached = manager._get_dl_path(resource, builder.url_infos[url].checksum)
    cached.parent.mkdir(parents=True, exist_ok=True)
    cached.touch()  # where TFDS would look for it
    imagenet_resized._check_downloads(builder)
    assert asked[2] == {}
