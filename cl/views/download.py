"""Bytes of files on web servers and in buckets that anyone may read."""

import re
import time
from http.client import HTTPException
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from cl.errors import DataError

TRIES = 4
SECONDS = 30.0
"""Without an answer, until a try is given up."""


def address(url: str, endpoint: str | None = None) -> str:
    """The http:// or https:// URL that `url` stands for, which may also be s3:// or gs://.

    Args:
        url: of a file or folder.
        endpoint: URL of a server that speaks S3's protocol, for s3://; None: Amazon's.

    Raises:
        DataError: any other kind of URL: nothing else is opened, and no command is run.
    """
    kind, separator, rest = url.partition("://")
    if not separator or kind not in ("http", "https", "s3", "gs") or not re.match(r"[\w.-]", rest):
        raise DataError(f"{url!r} is no URL that is opened: those begin with http://, https://, s3:// or gs://.")
    bucket, _, path = rest.partition("/")
    if kind == "gs":
        return f"https://storage.googleapis.com/{rest}".rstrip("/")
    if kind == "s3":
        base = f"{endpoint.rstrip('/')}/{bucket}" if endpoint else f"https://{bucket}.s3.amazonaws.com"
        return f"{base}/{path}".rstrip("/")
    return url.rstrip("/")


def fetched(url: str, extent: tuple[int, int] | None = None) -> bytes:
    """The file, or its bytes from and up to `extent`, of servers that cannot send a part of a file as well.

    Raises:
        DataError: the server does not answer in some tries, has no such file, or one that ends before.
    """
    ask = Request(url, headers={"Range": f"bytes={extent[0]}-{extent[1] - 1}"} if extent else {})
    why = ""
    for attempt in range(TRIES):
        if attempt:
            time.sleep(2.0 ** (attempt - 2))
        try:
            with urlopen(ask, timeout=SECONDS) as answer:
                if extent is None:
                    return answer.read()
                if answer.status != 206:  # the whole file: what comes before is passed over
                    for _ in range(extent[0] >> 20):
                        answer.read(1 << 20)
                    answer.read(extent[0] & ((1 << 20) - 1))
                content = answer.read(extent[1] - extent[0])
            if len(content) == extent[1] - extent[0]:
                return content
            why = f"{len(content):,} bytes came of {extent[1] - extent[0]:,} from byte {extent[0]:,} on"
        except HTTPError as error:
            why = f"the server says {error.code} {error.reason}"
            if error.code in (401, 403, 404, 410, 416):  # which it will say again
                break
        except (OSError, HTTPException) as error:
            why = str(error) or type(error).__name__
    raise DataError(f"{url} cannot be read: {why}. Correct the address, or copy the shards to a disk.")
