"""Deletions on real Ray workers."""


@pytest.mark.ray
@pytest.mark.slow
def test_the_command_deletes_with_two_ray_workers(
    ray_session: None, trained_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = open_store(str(tmp_path / "store"))
    copy_objects(open_store(str(trained_folder)), store)
    settings = make_job(str(tmp_path / "store")).model_dump(mode="json", exclude_defaults=True)
    path = tmp_path / "job.yaml"
    path.write_text(json.dumps(settings | {"scaling": {"num_workers": 2}}))
    requests = write_file(tmp_path, HEADER + "".join(f"{line}\n" for line in LINES))
    assert main(["delete", "run", "--json", str(path), "--requests", str(requests)]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert (figures["version"], figures["num_requests"]) == (2, {"not_found": 1, "published": 2})
    assert pairs_of(store, current_snapshot(store, "tiny")) == {
        pair for pair in pairs_of(store, snapshot_of(store, "tiny-0")) if pair[0] != 3 and pair[1] != 7
    }
    assert main(["delete", "run", "--json", str(path), "--requests", str(requests)]) == 0
    assert json.loads(capsys.readouterr().out)["num_requests"] == {"already_done": 3}


def snapshot_of(store: ObjectStore, snapshot_id: str) -> SnapshotManifest:
    return SnapshotManifest.model_validate_json(store.read(f"datasets/tiny/snapshots/{snapshot_id}/manifest.json"))
