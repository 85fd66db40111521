# Copyright 2026 The hf_slug authors. Licensed under the Apache License, Version 2.0.
"""Patches on a Hub: pushed and loaded by huggingface_hub's real client, from a server on 127.0.0.1."""

import json
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import hub_calls
import pytest
from hub_calls import REPO, WAYS, environment
from loopback_hub import Fault, LoopbackHub, check_yaml

from hf_slug.patch_files import CARD, CONFIG, REPORT, WEIGHTS


EXAMPLE = Path(__file__).parents[1] / "model_cards/examples/clip"
FILES = {WEIGHTS, CONFIG, REPORT, CARD}


class Client:
    """A process of its own, whose huggingface_hub knows the loopback server only."""

    def __init__(self, hub, home):
        self.environment = environment(hub.url, home)
        context = multiprocessing.get_context("spawn")
        self.pool = ProcessPoolExecutor(1, context, hub_calls.start, (self.environment,))

    def __call__(self, function, *args, **options):
        return self.pool.submit(function, *args, **options).result(timeout=120)


@pytest.fixture(scope="module")
def hub():
    with LoopbackHub() as server:
        yield server


@pytest.fixture(scope="module")
def client(hub, tmp_path_factory):
    client = Client(hub, tmp_path_factory.mktemp("home"))
    yield client
    client.pool.shutdown()


@pytest.fixture(scope="module")
def pushed(hub, client):
    """A patch on the Hub; its address."""
    return client(hub_calls.push)


@pytest.fixture
def repo(hub, client, pushed, request):
    """The same patch in a repository that no test has loaded from yet."""
    name = f"mira/{abs(hash(request.node.name)) % 10**9}"
    hub.add(name, {path: hub.read(REPO, path) for path in FILES})
    return name


def test_a_push_is_one_commit_of_four_files(hub, pushed):
    assert set(hub.repos[REPO].commits[hub.repos[REPO].refs["main"]]) >= FILES
    assert pushed.endswith(hub.repos[REPO].refs["main"])
    assert len(hub.repos[REPO].commits) == 2  # the Hub's own first one, and this


@pytest.mark.parametrize("way", WAYS)
def test_what_was_pushed_is_loaded_by_its_name(client, pushed, way):
    assert client(WAYS[way]) == client(hub_calls.expected_weight)


@pytest.mark.parametrize("way", WAYS)
def test_the_weights_are_asked_for_once(hub, client, repo, way):
    """What is asked for again when the model has been changed already could fail then."""
    hub.log.clear()
    client(WAYS[way], repo)
    asked = [method for method, path in hub.log if path.endswith(WEIGHTS)]
    # the second one asks once for itself; transformers asks by itself, and has changed nothing yet
    assert asked == {"transformers": asked, "PEFT, a second one": ["HEAD", "GET", "HEAD"]}.get(way, ["HEAD", "GET"])
    assert asked[:2] == ["HEAD", "GET"] and asked.count("GET") == 1


@pytest.mark.slow
def test_a_revision_stays_what_it_was(hub, client):
    name = "mira/revised"
    client(hub_calls.push, 0, name)
    old = hub.repos[name].refs["main"]
    assert client(hub_calls.load, name) == client(hub_calls.load, name, revision=old)
    client(hub_calls.push, 1, name)
    hub.repos[name].refs["v1"] = old
    new, pinned, tagged = (client(hub_calls.load_onto_pipeline, name, revision=rev) for rev in ("main", old, "v1"))
    assert new == client(hub_calls.expected_weight, 1) and pinned == tagged == client(hub_calls.expected_weight, 0)
    assert client(hub_calls.load_with_peft, name, revision=old) == pinned


def test_several_patches_lie_in_folders_of_one_repository(hub, client):
    for seed, folder in enumerate(("mira", "tobin")):
        client(hub_calls.push, seed, "mira/several", subfolder=folder)
    assert {
        path.split("/")[0] for path in hub.repos["mira/several"].commits[hub.repos["mira/several"].refs["main"]]
    } == {
        ".gitattributes",
        "mira",
        "tobin",
    }
    hub.log.clear()
    assert client(hub_calls.load_onto_pipeline, "mira/several", subfolder="tobin") == client(
        hub_calls.expected_weight, 1
    )
    fetched = {path.partition("/resolve/")[2].split("/")[1] for _, path in hub.log if "/resolve/" in path}
    assert fetched == {"tobin"}  # nothing else
    assert client(hub_calls.load_with_peft, "mira/several", subfolder="mira") == client(hub_calls.expected_weight, 0)


@pytest.mark.parametrize("from_base", [False, True], ids=["PeftModel", "SlugModel"])
def test_peft_pushes_what_can_be_loaded(client, from_base):
    name = f"mira/by-peft-{from_base}"
    client(hub_calls.push_with_peft, name, from_base)
    assert client(hub_calls.load_onto_pipeline, name) == client(hub_calls.expected_weight)


def test_a_loaded_patch_is_pushed_as_it_was_published(hub, client, pushed):
    client(hub_calls.push_from_a_host, "mira/from-a-host", private=True, commit_message="from a host")
    assert hub.repos["mira/from-a-host"].private
    for name in (WEIGHTS, CONFIG):  # its weight on the host is no part of it
        assert hub.read("mira/from-a-host", name) == hub.read(REPO, name)


def test_a_proposal_leaves_the_branch_alone(hub, client):
    client(hub_calls.push, 0, "mira/proposed")
    before = hub.repos["mira/proposed"].refs["main"]
    address = client(hub_calls.push, 1, "mira/proposed", create_pr=True, token="token-tobin")  # somebody else's
    assert "/discussions/" in address and hub.repos["mira/proposed"].refs["main"] == before
    found = client(hub_calls.load_onto_pipeline, "mira/proposed", revision="refs/pr/1")
    assert found == client(hub_calls.expected_weight, 1)


def test_private_and_gated_repositories_want_a_token(hub, client, repo):
    hub.repos[repo].private = True
    kinds, _, unchanged = client(hub_calls.try_to_load, "a pipeline", repo)
    assert "RepositoryNotFoundError" in kinds and "OSError" in kinds and unchanged
    assert client(hub_calls.load_onto_pipeline, repo, token="token-mira") == client(hub_calls.expected_weight)
    hub.repos[repo].private, hub.repos[repo].gated = False, True
    other = f"{repo}-gated"
    hub.repos[other] = hub.repos[repo]
    kinds, _, unchanged = client(hub_calls.try_to_load, "a pipeline", other, token="token-tobin")
    assert "GatedRepoError" in kinds and unchanged
    assert client(hub_calls.load_with_peft, other, token="token-mira") == client(hub_calls.expected_weight)


@pytest.mark.parametrize("way", ["a pipeline", "PEFT", "transformers"])
@pytest.mark.parametrize("what", ["repository", "revision", "folder"])
def test_what_is_not_there_is_said_by_type(client, repo, way, what):
    source, options, kind = {
        "repository": ("mira/nowhere", {}, "RepositoryNotFoundError"),
        "revision": (repo, {"revision": "nowhen"}, "RevisionNotFoundError"),
        "folder": (repo, {"subfolder": "nowhere"}, "ValueError"),
    }[what]
    kinds, message, unchanged = client(hub_calls.try_to_load, way, source, **options)
    assert unchanged and (kind in kinds or (way != "a pipeline" and {"ValueError", "OSError"} & set(kinds.split()))), (
        kinds
    )
    assert "nowhere" in message or "nowhen" in message or "mira" in message


def test_offline_the_cache_will_do(hub, client, repo):
    expected = client(hub_calls.load_onto_pipeline, repo)
    for function in (hub_calls.load_onto_pipeline, hub_calls.load_with_peft):
        found, opened = client(hub_calls.without_sockets, function, repo, local_files_only=True)
        assert found == expected and not opened


def test_another_process_with_an_empty_cache_gets_the_same_and_keeps_it(hub, client, pushed, tmp_path):
    expected = client(hub_calls.expected_weight)
    with LoopbackHub() as server:
        server.add(REPO, {path: hub.read(REPO, path) for path in FILES})
        own = Client(server, tmp_path)
        assert own(hub_calls.load_onto_pipeline, REPO) == expected
    try:  # without a server
        assert own(hub_calls.load_onto_pipeline, REPO) == expected
        kinds, message, unchanged = own(hub_calls.try_to_load, "a pipeline", "mira/other")
        assert unchanged and "OSError" in kinds and "mira/other" in message
    finally:
        own.pool.shutdown()


@pytest.mark.parametrize("way", WAYS)
def test_a_local_folder_opens_no_socket(client, tmp_path, way):
    client(hub_calls.new_patch).save_pretrained(tmp_path)
    found, opened = client(hub_calls.without_sockets, WAYS[way], str(tmp_path))
    assert found == client(hub_calls.expected_weight) and not opened


def test_the_command_pushes_and_inspects(hub, client, tmp_path):
    client(hub_calls.new_patch).save_pretrained(tmp_path / "patch")
    push = ["push", str(tmp_path / "patch"), "mira/pushed", "--license", "apache-2.0", "--commit-message", "hello"]
    refused = client(hub_calls.run_command, *push)
    assert refused[0] == 2 and "hf-slug: error" in refused[2] and "mira/pushed" not in hub.repos  # nobody is logged in
    client(hub_calls.start, {"HF_TOKEN": "token-mira"})
    code, out, err = client(hub_calls.run_command, *push, "--private", "--subfolder", "a")
    assert code == 0, err
    assert out.strip().endswith(hub.repos["mira/pushed"].refs["main"]) and hub.repos["mira/pushed"].private
    card = hub.read("mira/pushed", f"a/{CARD}").decode()
    assert "license: apache-2.0" in card and '"mira/pushed", subfolder="a"' in card and not check_yaml(card)
    code, out, _ = client(hub_calls.run_command, "inspect", "mira/pushed", "--subfolder", "a", "--json")
    old = hub.repos["mira/pushed"].refs["main"]
    client(hub_calls.push, 3, "mira/pushed", subfolder="a")
    place = ["mira/pushed", "--subfolder", "a", "--output", str(tmp_path / "lora"), "--json"]
    residuals = [
        json.loads(client(hub_calls.run_command, "export", *place, "--rank", "2", "--patch-revision", revision)[1])
        for revision in (old, "main")
    ]
    assert residuals[0]["residual"] != residuals[1]["residual"]  # of another patch
    assert code == 0 and json.loads(out)["concept"] == "mira" and json.loads(out)["changes"][0]["base_sha256"]
    client(hub_calls.start, {"HF_TOKEN": ""})


def test_a_failed_patch_is_not_published_by_mistake(hub, client, tmp_path):
    patch = client(hub_calls.new_patch)
    patch.report = {"succeeded": False}
    patch.save_pretrained(tmp_path)
    code, _, err = client(hub_calls.run_command, "push", str(tmp_path), "mira/failed")
    assert code == 2 and "--anyway" in err and "mira/failed" not in hub.repos


def test_the_card_of_a_push_has_its_pictures(hub, client):
    client(hub_calls.push_example, "mira/pictured", str(EXAMPLE))
    tree = hub.repos["mira/pictured"].commits[hub.repos["mira/pictured"].refs["main"]]
    card = hub.read("mira/pictured", CARD).decode()
    assert {"front.png", "trajectory.png"} <= set(tree) and "](front.png)" in card and '"mira/pictured"' in card
    assert not check_yaml(card)


# faults

WEIGHTS_OF = "/{}/resolve/*/" + WEIGHTS
TRANSIENT = {
    "a cut connection": [("cut", 1)],
    "cut twice": [("cut", 2)],
    "a slow server": [("slow", 1)],
    "a server that was ill for a moment": [("503", 1)],
    "a damaged file, once": [("etag", 1)],
}
LASTING = {
    "cut for good": [("cut", 1000)],
    "a truncated file": [("short", 1000)],
    "an ill server": [("500", 1000)],
    "a damaged file": [("etag", 1000)],
}


@pytest.mark.parametrize("way", ["a pipeline", "PEFT"])
@pytest.mark.parametrize("faults", TRANSIENT.values(), ids=TRANSIENT.keys())
def test_what_passes_is_overcome(hub, client, repo, way, faults):
    with hub.broken(*(Fault(WEIGHTS_OF.format(repo), kind, times, "GET") for kind, times in faults)):
        assert client(WAYS[way], repo) == client(hub_calls.expected_weight)
    assert not client(hub_calls.damaged_files)


@pytest.mark.parametrize("way", ["a pipeline", "PEFT", "transformers"])
@pytest.mark.parametrize("faults", LASTING.values(), ids=LASTING.keys())
def test_what_does_not_pass_is_said_and_changes_nothing(hub, client, repo, way, faults):
    with hub.broken(*(Fault(WEIGHTS_OF.format(repo), kind, times, "GET") for kind, times in faults)):
        kinds, message, unchanged = client(hub_calls.try_to_load, way, repo)
        hub.faults = []
    assert unchanged and {"OSError", "ValueError"} & set(kinds.split()), (kinds, message)
    assert message.strip()
    assert not client(hub_calls.damaged_files)
    assert client(WAYS[way], repo) == client(hub_calls.expected_weight)  # nothing in the cache stands in the way


@pytest.mark.parametrize("path", ["*/preupload/*", "*/info/lfs/*", "/lfs/*", "*/commit/*"])
def test_a_push_that_breaks_off_leaves_no_half_patch(hub, client, path):
    name = f"mira/broken-{abs(hash(path)) % 10**6}"
    client(hub_calls.push, 0, name)
    before = hub.repos[name].refs["main"]
    with hub.broken(Fault(path, "403")), pytest.raises((OSError, RuntimeError)):
        client(hub_calls.push, 7 + abs(hash(path)) % 1000, name)
    assert hub.repos[name].refs["main"] == before and len(hub.repos[name].commits) == 2
    assert client(hub_calls.load_onto_pipeline, name) == client(hub_calls.expected_weight)


@pytest.mark.parametrize("way", ["a pipeline", "PEFT", "transformers"])
@pytest.mark.parametrize("kind", ["etag", "cut"])
def test_a_config_that_arrives_damaged_is_fetched_again(hub, client, repo, way, kind):
    with hub.broken(Fault(f"/{repo}/resolve/*/{CONFIG}", kind, 1, "GET")):
        assert client(WAYS[way], repo) == client(hub_calls.expected_weight)
    assert not client(hub_calls.damaged_files)


def test_the_hub_may_be_ill_for_a_moment_when_it_is_asked_for_the_revision(hub, client, repo):
    with hub.broken(Fault("/api/models/*", "503", 2)):
        assert client(hub_calls.load_onto_pipeline, repo) == client(hub_calls.expected_weight)
    with hub.broken(Fault("/api/models/*", "500", 1000)):
        # what is in the cache will do, but not where it was asked for anew
        assert client(hub_calls.load_onto_pipeline, repo) == client(hub_calls.expected_weight)
        kinds, _, unchanged = client(hub_calls.try_to_load, "a pipeline", repo, force_download=True)
        assert "HfHubHTTPError" in kinds and unchanged
        hub.faults = []


def test_what_peft_has_cached_is_loaded_offline(client, repo):
    expected = client(hub_calls.load_with_peft, repo)  # which fetches no report
    assert client(hub_calls.load_onto_pipeline, repo, local_files_only=True) == expected
    assert client(hub_calls.load_with_peft, repo, local_files_only=True) == expected


def test_a_file_that_is_larger_than_any_patch_is_not_downloaded(hub, client, repo):
    big = type("Big", (bytes,), {"__len__": lambda self: 2**40})
    sha = hub.repos[repo].commits[hub.repos[repo].refs["main"]][WEIGHTS]
    honest, hub.blobs[sha] = hub.blobs[sha], big(hub.blobs[sha])
    hub.log.clear()
    kinds, message, unchanged = client(hub_calls.try_to_load, "a pipeline", repo)
    hub.blobs[sha] = honest
    assert "CorruptPatchError" in kinds and "not downloaded" in message and unchanged
    assert not [path for _, path in hub.log if "/resolve/" in path]


def test_a_push_makes_the_branch_it_is_for(hub, client):
    for seed in (0, 1):  # new, and then there already
        client(hub_calls.push, seed, "mira/branched", revision="dev")
    assert client(hub_calls.load_onto_pipeline, "mira/branched", revision="dev") == client(
        hub_calls.expected_weight, 1
    )
    assert WEIGHTS not in hub.repos["mira/branched"].commits[hub.repos["mira/branched"].refs["main"]]


@pytest.mark.parametrize("subfolder", ["/x", "../x"])
def test_a_push_to_nowhere_asks_nobody(hub, client, subfolder):
    hub.log.clear()
    with pytest.raises(ValueError, match="leads out"):
        client(hub_calls.push, 0, "mira/nowhere-else", subfolder=subfolder)
    assert not hub.log


def test_a_patch_that_was_tampered_with_is_refused_and_forgotten(hub, client, repo):
    report = json.loads(hub.read(repo, REPORT)) | {"succeeded": True}
    hub.add(repo, {REPORT: json.dumps(report).encode()})
    kinds, message, unchanged = client(hub_calls.try_to_load, "a pipeline", repo)
    assert "CorruptPatchError" in kinds and REPORT in message and unchanged
    assert not [
        path for path in client(hub_calls.cached_files) if repo.replace("/", "--") in path and "snapshots" in path
    ]


@pytest.mark.parametrize("subfolder", ["../other", "/etc", "a/../../b"])
def test_a_folder_outside_the_repository_is_refused(client, repo, subfolder):
    kinds, message, unchanged = client(hub_calls.try_to_load, "a pipeline", repo, subfolder=subfolder)
    assert "ValueError" in kinds and "subfolder" in message and unchanged


def test_retain_statistics_are_published_and_loaded_by_their_name(hub, client):
    expected = client(hub_calls.push_statistics, "mira/statistics")
    head = hub.repos["mira/statistics"].commits[hub.repos["mira/statistics"].refs["main"]]
    assert {"retain_statistics.safetensors", "retain_statistics.json", "README.md"} <= set(head)
    assert len(hub.repos["mira/statistics"].commits) == 2  # the Hub's own first one, and this
    with hub.broken(Fault("/mira/statistics/resolve/*/retain_statistics.safetensors", "etag", 1, "GET")):
        assert client(hub_calls.load_statistics, "mira/statistics") == expected  # what was damaged is fetched again
    assert client(hub_calls.load_statistics, "mira/statistics", local_files_only=True) == expected
