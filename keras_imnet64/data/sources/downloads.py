"""Whether a server gives files to anyone, asked before TFDS begins to download them.

Left to itself TFDS retries for minutes where there is no network, waits for ever for a proxy that
is silent, and takes the page of a login for an archive.
"""

import contextlib
import functools
import queue
import threading
import time
from urllib.parse import urlsplit

import requests
from tensorflow_datasets.core.download import downloader

ASK_SECONDS = 10  # for all files together, and for name servers, which have no limit of their own
SILENT_SECONDS = 60  # of a server in the middle of a file
RETRIES = 2


def why_not_offered(sizes):
    """Why files cannot be downloaded, as a clause; None where a server offers all of them.

    Args:
        sizes: {url: bytes of the file that is wanted}.
    """
    reasons = queue.Queue()

    def ask(url, size):
        reasons.put(_why_not(url, size))

    for url_and_size in sizes.items():
        threading.Thread(target=ask, args=url_and_size, daemon=True).start()
    end = time.monotonic() + ASK_SECONDS
    for _ in sizes:
        try:
            why = reasons.get(timeout=max(0, end - time.monotonic()))
        except queue.Empty:
            hosts = sorted({_host(url) for url in sizes})
            return f"{' and '.join(hosts)} did not answer within {ASK_SECONDS} seconds"
        if why:
            return why
    return None


def _why_not(url, size):
    """The same of one file; only the head of the answer is read."""
    host, plain = _host(url), {"Accept-Encoding": "identity"}
    try:
        with requests.get(url, stream=True, timeout=ASK_SECONDS, headers=plain) as response:
            return _why_not_this(response, host, size)
    except requests.exceptions.ProxyError:
        return f"the proxy gives no connection to {host}"
    except requests.exceptions.SSLError:
        return f"the certificate of {host} could not be checked"
    except requests.exceptions.Timeout:
        return f"{host} did not answer within {ASK_SECONDS} seconds"
    except (requests.exceptions.RequestException, OSError):
        return f"there is no connection to {host}"


def _why_not_this(response, host, size):
    length = response.headers.get("Content-Length", "")
    if response.status_code != 200:
        return f"{host} answers with status {response.status_code} {response.reason}".strip()
    if "html" in response.headers.get("Content-Type", ""):
        return f"{host} answers with a web page, as it does where a login is needed"
    if length != str(size):
        offered = f"{int(length):,} bytes" if length.isdigit() else "unknown size"
        return f"{host} offers a file of {offered} where {size:,} bytes are published"
    return None


def _host(url):
    return urlsplit(url).hostname or url


@contextlib.contextmanager
def impatient_downloads():
    """Let TFDS give up a server that is silent, and retry twice where it would ten times."""
    before = downloader._open_with_requests, downloader.MAX_RETRIES
    downloader._open_with_requests = functools.partial(before[0], timeout=SILENT_SECONDS)
    downloader.MAX_RETRIES = RETRIES
    try:
        yield
    finally:
        downloader._open_with_requests, downloader.MAX_RETRIES = before
