"""Checks that servers offer files without a login, before TFDS begins to download them.

TFDS itself would retry for minutes without a network, wait without limit for a silent proxy, and
mistake a login page for an archive.
"""

import queue
import threading
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager
from urllib.parse import urlsplit

import requests

from keras_imnet64.data.sources.tfds_private import download_limits

REQUEST_SECONDS = 10  # for all files together; name look-ups have no time limit
SILENT_SECONDS = 60  # without data from a server in the middle of a file
MAX_RETRIES = 2


def unavailable_reason(sizes: Mapping[str, int]) -> str | None:
    """Returns why files cannot be downloaded, as a clause; None if servers offer all of them.

    Args:
        sizes: {url: expected bytes of the file}.
    """
    reasons: queue.Queue[str | None] = queue.Queue()

    def request(url: str, size: int) -> None:
        reasons.put(_unavailable_reason(url, size))

    for url_and_size in sizes.items():
        threading.Thread(target=request, args=url_and_size, daemon=True).start()
    end = time.monotonic() + REQUEST_SECONDS
    for _ in sizes:
        try:
            reason = reasons.get(timeout=max(0, end - time.monotonic()))
        except queue.Empty:
            hosts = sorted({_host(url) for url in sizes})
            return f"{' and '.join(hosts)} did not answer within {REQUEST_SECONDS} seconds"
        if reason:
            return reason
    return None


def _unavailable_reason(url: str, size: int) -> str | None:
    """Returns why one file cannot be downloaded, or None; reads only the response's headers."""
    host, headers = _host(url), {"Accept-Encoding": "identity"}
    try:
        with requests.get(url, stream=True, timeout=REQUEST_SECONDS, headers=headers) as response:
            return _mismatch(response, host, size)
    except requests.exceptions.ProxyError:
        return f"the proxy refuses the connection to {host}"
    except requests.exceptions.SSLError:
        return f"the certificate of {host} could not be checked"
    except requests.exceptions.Timeout:
        return f"{host} did not answer within {REQUEST_SECONDS} seconds"
    except (requests.exceptions.RequestException, OSError):
        return f"there is no connection to {host}"


def _mismatch(response: requests.Response, host: str, size: int) -> str | None:
    """Returns how a response differs from a file of `size` bytes, as a clause, or None."""
    length = response.headers.get("Content-Length", "")
    if response.status_code != 200:
        return f"{host} answers with status {response.status_code} {response.reason}".strip()
    if "html" in response.headers.get("Content-Type", ""):
        return f"{host} answers with a web page, as it does where a login is needed"
    if length != str(size):
        offered = f"{int(length):,} bytes" if length.isdigit() else "unknown size"
        return f"{host} offers a file of {offered} where {size:,} bytes are published"
    return None


def _host(url: str) -> str:
    return urlsplit(url).hostname or url


def limit_downloads() -> AbstractContextManager[None]:
    """Lets TFDS give up a silent server after a minute, and retry twice instead of ten times."""
    return download_limits(timeout_seconds=SILENT_SECONDS, max_retries=MAX_RETRIES)
