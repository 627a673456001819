"""Tables at Hugging Face are read natively: repositories, revisions, tokens, errors, faults, the cache."""

from __future__ import annotations

import pickle
import threading
import time

import hub_folder
import lance
import lancedb
import lanceloader as ll
import numpy as np
import pyarrow as pa
import pytest
import s3_folder
from command_line import run
from lanceloader import errors
from read_natively import check_read_natively

ROWS = 5_000
URI = "hf://datasets/me/music/t.lance"
TOKEN = "hf_s3cret"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("repository")
    rng = np.random.default_rng(0)
    data = pa.table(
        {
            "id": pa.array(range(ROWS)),
            "x": rng.random(ROWS, np.float32),
            # So long that rows are not all in one request.
            "wide": [rng.bytes(1000) for _ in range(ROWS)],
            "text": [f"row {k}" * (k % 7) for k in range(ROWS)],
        }
    )
    lance.write_dataset(data, folder / "t.lance", max_rows_per_file=1000)
    # More versions than a page of a list has.
    for version in range(2, 7):
        table = lance.dataset(folder / "t.lance")
        table.update_config({"note": str(version)})
    return folder


@pytest.fixture
def serve(folder, tmp_path, monkeypatch):
    hub_folder.forget_credentials(monkeypatch, tmp_path / "home")
    # A second request that nobody waits for would be counted in the next epoch.
    monkeypatch.setenv("LANCELOADER_HEDGED_REQUESTS", "0")
    # Nothing that another test has fetched.
    monkeypatch.setenv("LANCELOADER_CACHE_DIR", str(tmp_path / "cache"))
    servers = []

    def start(**options):
        server = hub_folder.serving(folder, **options)
        servers.append(server)
        hub = server.__enter__()
        monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
        return hub

    yield start
    for server in servers:
        server.__exit__(None, None, None)


@pytest.fixture
def hub(serve):
    return serve()


def ids_of(perm, epoch=0) -> list[int]:
    loader = perm.loader(256, shuffle=True, seed=1, format="numpy_dict")
    loader.set_epoch(epoch)
    return np.concatenate([batch["id"] for batch in loader]).tolist()


# Reading


def test_rows_are_exact_and_read_natively(hub, folder):
    perm = ll.open(URI)
    local = ll.open(folder / "t.lance")
    check_read_natively(perm, local)
    assert hub.requests
    assert not hub.misplaced


def test_each_data_file_is_resolved_once(hub, folder):
    perm = ll.open(URI)
    for seed in range(3):
        perm.shuffle(seed=seed).head(50)
    data = [path for _, path in hub.resolved if path.endswith(".lance")]
    assert len(data) == len(set(data)) == len(list(folder.rglob("data/*.lance")))
    assert hub.requests > len(data)


def test_a_second_epoch_makes_no_request(hub):
    perm = ll.open(URI)
    epochs = [ids_of(perm)]
    assert hub.requests
    hub.reset()
    epochs.append(ids_of(perm, epoch=1))
    assert hub.requests == 0
    assert not hub.resolved
    assert all(sorted(ids) == list(range(ROWS)) for ids in epochs)
    assert epochs[0] != epochs[1]


def test_another_process_would_find_the_copies(hub):
    ids_of(ll.open(URI))
    hub.reset()
    ids_of(ll.open(URI))
    assert hub.requests == 0


@pytest.mark.parametrize(
    ("repository", "uri"),
    [
        ("models/me/music", "hf://models/me/music/t.lance"),
        ("spaces/me/music", "hf://spaces/me/music/t.lance/"),
        ("buckets/me/music", "hf://buckets/me/music/t.lance"),
        ("datasets/Me/Music", "hf://datasets/me/music/t.lance"),
    ],
)
def test_every_kind_of_repository_is_read(serve, repository, uri):
    serve(repository=repository)
    perm = ll.open(uri)
    assert "own library" not in str(perm.explain())
    assert perm.select_columns(["id"]).head(3) == [{"id": 0}, {"id": 1}, {"id": 2}]


def test_sizes_that_the_hub_leaves_out_are_found_elsewhere(serve):
    hub = serve(is_mirror=True)
    perm = ll.open(URI)
    assert sorted(ids_of(perm)) == list(range(ROWS))
    assert not hub.misplaced


def test_versions_are_found_in_lists_of_several_pages(hub):
    assert ll.open(URI).version == 6
    assert ll.open(URI, version=2).version == 2


@pytest.mark.parametrize(
    ("uri", "options"),
    [
        ("hf://datasets/me/music@v2/t.lance", {}),
        ("hf://datasets/me/music@refs/pr/1/t.lance", {}),
        ("hf://datasets/me/music@refs%2Fpr%2F1/t.lance", {}),
        (URI, {"hf_revision": "v2"}),
        (URI, {"revision": "refs/pr/1"}),
        ("hf://datasets/me/music@v2/t.lance", {"hf_revision": "v2"}),
    ],
)
def test_revisions_are_read(serve, uri, options):
    serve(revisions=("v2", "refs/pr/1"))
    perm = ll.open(uri, storage_options=options)
    assert len(perm) == ROWS
    assert perm.filter("id < 10").to_arrow().num_rows == 10
    again = pickle.loads(pickle.dumps(perm))
    assert again.head(1) == perm.head(1)


def test_two_revisions_at_once_are_an_error():
    with pytest.raises(ValueError, match=r"'v2'.*'v3'"):
        ll.open("hf://datasets/me/music@v2/t.lance", storage_options={"Revision": "v3"})


@pytest.mark.parametrize("uri", ["hf://me/music/t.lance", "hf://datasets/me", "hf://"])
def test_addresses_without_a_repository_say_what_to_write(uri):
    with pytest.raises(ValueError, match=r"hf://datasets/owner/name/table\.lance"):
        ll.open(uri)


def test_commands_take_revisions_and_name_tables(serve):
    serve(revisions=("v2",))
    shown = run("info", "hf://datasets/me/music@v2").output
    assert "t" in shown.split()
    option = ("--storage-option", "hf_revision=v3")
    refused = run("head", "hf://datasets/me/music@v2/t.lance", *option, code=2)
    assert "'v3'" in refused.output


def test_a_folder_of_the_repository_may_be_an_option(hub):
    options = {"hf_root": "/t.lance"}
    assert len(ll.open("hf://datasets/me/music", storage_options=options)) == ROWS


def test_tables_of_lancedb_are_read_natively(hub):
    table = lancedb.connect("hf://datasets/me/music").open_table("t")
    perm = ll.Permutation.identity(table)
    assert "own library" not in str(perm.explain())
    assert perm.take_offsets([7])[0]["id"] == 7


def test_a_filter_is_answered_by_the_table_s_library(hub):
    assert len(ll.open(URI).filter("id < 10")) == 10


def test_downloads_by_xet_are_left_to_the_table_s_library(hub):
    perm = ll.open(URI, storage_options={"hf_download_mode": "xet"})
    assert "own library" in str(perm.explain())


# Tokens


def token_as_option(monkeypatch, tmp_path) -> dict[str, str]:
    return {"hf_token": TOKEN}


def token_in_the_environment(monkeypatch, tmp_path) -> dict[str, str]:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    return {}


def token_in_its_file(monkeypatch, tmp_path) -> dict[str, str]:
    home = tmp_path / "home"
    home.mkdir()
    (home / "token").write_text(f"{TOKEN}\n")
    return {}


def token_of_older_programs(monkeypatch, tmp_path) -> dict[str, str]:
    monkeypatch.setenv("HUGGINGFACE_TOKEN", TOKEN)
    return {}


def token_before_that_of_older_programs(monkeypatch, tmp_path) -> dict[str, str]:
    monkeypatch.setenv("HUGGINGFACE_TOKEN", "hf_other")
    return token_in_the_environment(monkeypatch, tmp_path)


def token_of_the_oldest_programs(monkeypatch, tmp_path) -> dict[str, str]:
    monkeypatch.setenv("HUGGING_FACE_HUB_TOKEN", TOKEN)
    return {}


def token_in_place_of_a_blank_one(monkeypatch, tmp_path) -> dict[str, str]:
    token_in_the_environment(monkeypatch, tmp_path)
    return {"hf_token": "  "}


def token_in_a_file_at_home(monkeypatch, tmp_path) -> dict[str, str]:
    token_in_its_file(monkeypatch, tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("HF_HOME", "~/home")
    return {}


def token_in_another_file(monkeypatch, tmp_path) -> dict[str, str]:
    token_in_its_file(monkeypatch, tmp_path)
    (tmp_path / "mine").write_text(TOKEN)
    (tmp_path / "home" / "token").write_text("hf_other")
    monkeypatch.setenv("HF_TOKEN_PATH", str(tmp_path / "mine"))
    return {}


def token_of_the_environment_before_that_in_a_file(
    monkeypatch, tmp_path
) -> dict[str, str]:
    token_in_its_file(monkeypatch, tmp_path)
    (tmp_path / "home" / "token").write_text("hf_other")
    return token_in_the_environment(monkeypatch, tmp_path)


def token_before_that_of_the_environment(monkeypatch, tmp_path) -> dict[str, str]:
    monkeypatch.setenv("HF_TOKEN", "hf_other")
    return {"token": TOKEN}


@pytest.mark.parametrize(
    "place",
    [
        token_as_option,
        token_in_the_environment,
        token_of_older_programs,
        token_before_that_of_older_programs,
        token_of_the_oldest_programs,
        token_in_place_of_a_blank_one,
        token_in_its_file,
        token_in_a_file_at_home,
        token_in_another_file,
        token_of_the_environment_before_that_in_a_file,
        token_before_that_of_the_environment,
    ],
)
def test_a_private_repository_is_read_with_a_token(serve, monkeypatch, tmp_path, place):
    hub = serve(token=TOKEN)
    perm = ll.open(URI, storage_options=place(monkeypatch, tmp_path))
    assert sorted(ids_of(perm)) == list(range(ROWS))
    # Not with the signed addresses of the storage.
    assert hub.requests
    assert not hub.misplaced
    assert TOKEN.encode() not in pickle.dumps(perm)


def test_a_token_is_not_sent_where_that_is_turned_off(serve, monkeypatch):
    serve(token=TOKEN)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setenv("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1")
    with pytest.raises(errors.StorageDeniedError):
        ll.open(URI)


def test_a_file_without_a_token_holds_none(hub, tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    (home / "token").write_text("\n")
    assert len(ll.open(URI)) == ROWS


# Errors


@pytest.mark.parametrize(
    "endpoint", ["me:s3cret@127.0.0.1", "ftp://me:s3cret@127.0.0.1"]
)
def test_an_endpoint_that_is_no_address_of_http(hub, monkeypatch, endpoint):
    monkeypatch.setenv("HF_ENDPOINT", endpoint)
    with pytest.raises(errors.StorageError, match="HF_ENDPOINT is not") as raised:
        ll.open(URI)
    assert "s3cret" not in str(raised.value)


def test_storage_that_cannot_be_reached_is_not_blamed_on_the_hub(hub):
    with s3_folder.Server(("127.0.0.1", 0), hub_folder.HubRequest) as server:
        hub.storage = f"http://127.0.0.1:{server.server_port}"
    perm = ll.open(URI, storage_options={"client_max_retries": "0"})
    with pytest.raises(errors.StorageUnreachableError, match="redirects to"):
        perm.head(10)


def test_a_list_that_never_ends_is_an_error(hub, monkeypatch):
    monkeypatch.setattr(hub_folder, "ENDLESS", True)
    with pytest.raises((errors.StorageError, FileNotFoundError)):
        ll.open("hf://datasets/me/music/none.lance")


def test_a_private_repository_needs_a_token(serve):
    hub = serve(token=TOKEN)
    with pytest.raises(errors.StorageDeniedError) as raised:
        ll.open(URI)
    for part in ("hf_token", "HF_TOKEN", "private", hub.endpoint):
        assert part in str(raised.value)
    assert "aws_" not in str(raised.value)


def test_a_wrong_token_is_refused_and_not_shown(hub):
    with pytest.raises(errors.StorageDeniedError) as raised:
        ll.open(URI, storage_options={"hf_token": "wr0ng"})
    assert "wr0ng" not in str(raised.value)


def test_a_gated_repository_says_so(serve):
    serve(token=TOKEN, is_gated=True)
    with pytest.raises(errors.StorageDeniedError, match="GatedRepo"):
        ll.open(URI, storage_options={"hf_token": "hf_other"})


@pytest.mark.parametrize(
    ("uri", "options", "named"),
    [
        ("hf://datasets/me/none/t.lance", {"hf_token": TOKEN}, "repository `me/none`"),
        ("hf://datasets/me/music@v9/t.lance", {}, "repository `me/music@v9`"),
    ],
)
def test_what_does_not_exist_is_named(hub, uri, options, named):
    with pytest.raises(FileNotFoundError, match=named):
        ll.open(uri, storage_options=options)


def test_a_missing_table_names_those_nearby(hub):
    with pytest.raises(FileNotFoundError, match="the table `t`"):
        ll.open("hf://datasets/me/music/u.lance")


def test_an_endpoint_that_nobody_serves_is_named(hub, monkeypatch):
    with s3_folder.Server(("127.0.0.1", 0), hub_folder.HubRequest) as server:
        gone = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setenv("HF_ENDPOINT", gone)
    with pytest.raises(errors.StorageUnreachableError, match="HF_ENDPOINT") as raised:
        ll.open(URI, storage_options={"client_max_retries": "1"})
    assert gone in str(raised.value)


@pytest.mark.parametrize(
    ("options", "named"),
    [({"timeout": "soon"}, "`timeout`"), ({"hf_token": "a\nb"}, "token")],
)
def test_options_that_cannot_be_used_are_named(hub, options, named):
    with pytest.raises(errors.StorageError, match=named):
        ll.open(URI, storage_options=options)


def test_redirects_without_an_end_are_an_error(hub):
    hub.trouble = lambda path: path
    with pytest.raises(errors.StorageError, match="redirects"):
        ll.open(URI, storage_options={"client_max_retries": "0"})


# Faults


@pytest.mark.parametrize("fault", [503, 429, "reset", "short"])
def test_storage_that_fails_is_asked_again(hub, fault):
    hub.fault = lambda number: fault if number % 3 == 0 else None
    assert sorted(ids_of(ll.open(URI))) == list(range(ROWS))
    assert hub.failed


def test_a_hub_that_is_busy_is_asked_again(hub):
    asked = iter(range(1_000_000))
    hub.trouble = lambda path: 503 if next(asked) % 3 == 0 else None
    assert sorted(ids_of(ll.open(URI))) == list(range(ROWS))


def test_a_hub_that_stalls_is_asked_again(hub):
    paths, is_over = [], threading.Event()

    def stall(path):
        paths.append(path)
        if len(paths) == 1:
            is_over.wait(60)

    hub.trouble = stall
    try:
        perm = ll.open(URI, storage_options={"timeout": "3 seconds"})
    finally:
        is_over.set()
    assert len(perm) == ROWS
    assert paths.count(paths[0]) > 1


@pytest.mark.parametrize("header", ["RateLimit", "Retry-After"])
def test_the_hub_is_not_asked_before_the_time_that_it_says(hub, header):
    hub.pause_header = header
    refusals = iter([429])
    hub.pause = 1
    hub.trouble = lambda path: next(refusals, None)
    start = time.monotonic()
    assert len(ll.open(URI)) == ROWS
    assert time.monotonic() - start >= 1


def test_addresses_that_have_expired_are_asked_for_again(hub, folder):
    perm = ll.open(URI)
    perm.shuffle(seed=1).head(50)
    first = len(hub.resolved)
    hub.key += 1
    rows = perm.shuffle(seed=2).head(50)
    assert rows == ll.open(folder / "t.lance").shuffle(seed=2).head(50)
    assert len(hub.resolved) > first


def test_addresses_that_are_about_to_expire_are_not_kept(serve):
    hub = serve(lifetime=20.0)
    assert sorted(ids_of(ll.open(URI))) == list(range(ROWS))
    data = [path for _, path in hub.resolved if path.endswith(".lance")]
    assert len(data) > len(set(data))


def test_storage_that_refuses_for_good_is_one_error(hub):
    perm = ll.open(URI)
    hub.fault = lambda number: 403
    with pytest.raises(errors.StorageDeniedError) as raised:
        perm.head(10)
    assert "Signature" not in str(raised.value)


def test_a_token_that_is_revoked_while_it_is_used_is_an_error(serve):
    hub = serve(token=TOKEN)
    perm = ll.open(URI, storage_options={"hf_token": TOKEN})
    hub.token = "hf_new"
    with pytest.raises(errors.StorageDeniedError, match="HF_TOKEN"):
        ll.open(URI, storage_options={"hf_token": "wrong"})
    hub.is_gated = True
    with pytest.raises(errors.StorageDeniedError, match="HF_TOKEN"):
        perm.head(10)


def test_a_repository_that_vanishes_while_it_is_read_is_an_error(hub):
    perm = ll.open(URI)
    hub.trouble = lambda path: 404
    with pytest.raises(errors.TableChangedError):
        perm.head(10)
