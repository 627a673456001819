"""Fixtures: buckets of an S3 server in this process, and the options that reach them."""

from __future__ import annotations

import itertools

import boto3
import pytest
from moto.server import ThreadedMotoServer

KEY_ID = "AKIAQ7XEXAMPLE"
SECRET = "wJalrXUtnFEMIK7MDENG"


@pytest.fixture(scope="module")
def s3():
    """A client of a server that has no buckets."""
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield boto3.client(
        "s3",
        endpoint_url=f"http://{host}:{port}",
        aws_access_key_id=KEY_ID,
        aws_secret_access_key=SECRET,
        region_name="us-east-1",
    )
    server.stop()


names = map("bucket-{}".format, itertools.count())


@pytest.fixture
def bucket(s3):
    name = next(names)
    s3.create_bucket(Bucket=name)
    return name


@pytest.fixture
def options(s3):
    return {
        "aws_endpoint": s3.meta.endpoint_url,
        "allow_http": "true",
        "aws_access_key_id": KEY_ID,
        "aws_secret_access_key": SECRET,
        "aws_region": "us-east-1",
    }
