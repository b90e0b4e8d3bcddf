//! `verify` finds what was changed behind Millrace's back.

use std::path::Path;

use crate::sandbox::Sandbox;

fn flip_a_bit(path: &Path) {
    let mut bytes = std::fs::read(path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(path, bytes).unwrap();
}

fn name(path: &Path) -> String {
    path.file_name().unwrap().to_string_lossy().into_owned()
}

#[test]
fn a_file_removed_changed_by_one_bit_or_added_is_found() {
    let sandbox = Sandbox::shop(20_000, 31);
    sandbox.run(&[]);
    assert_eq!(sandbox.verify(), Vec::<String>::new());
    for folder in ["data", "quarantine", "keys", "quality", "manifests"] {
        let victim = sandbox
            .objects(folder)
            .pop()
            .unwrap_or_else(|| panic!("nothing in {folder}"));
        let kept = std::fs::read(&victim).unwrap();

        flip_a_bit(&victim);
        let faults = sandbox.verify();
        assert!(
            faults.iter().any(|fault| fault.contains(&name(&victim))),
            "bit in {folder}: {faults:?}"
        );

        std::fs::remove_file(&victim).unwrap();
        let faults = sandbox.verify();
        assert!(
            faults.iter().any(|fault| fault.contains(&name(&victim))),
            "removed in {folder}: {faults:?}"
        );
        std::fs::write(&victim, &kept).unwrap();

        let stranger = victim.with_file_name("b00000001-e0a9-0-0.parquet");
        std::fs::write(&stranger, &kept).unwrap();
        let faults = sandbox.verify();
        assert!(
            faults.iter().any(|fault| fault.contains(&name(&stranger))),
            "added in {folder}: {faults:?}"
        );
        std::fs::remove_file(&stranger).unwrap();
        assert_eq!(sandbox.verify(), Vec::<String>::new());
    }
}

/// The ledger is what everything else is held against, so its own end must not come off unseen either.
#[test]
fn a_ledger_entry_removed_changed_or_added_is_found() {
    let sandbox = Sandbox::shop(5_000, 32);
    sandbox.run(&[]);
    sandbox.run(&[]);
    let objects = sandbox.objects("ledger");
    let (head, entries) = objects.split_last().unwrap();
    assert_eq!(name(head), "head.json");
    assert!(entries.len() > 3, "{entries:?}");
    let found = |what: &str, victim: &Path| {
        let faults = sandbox.verify();
        assert!(
            faults.iter().any(|fault| fault.contains(&name(victim))),
            "{what} {victim:?}: {faults:?}"
        );
    };
    for victim in [
        &entries[0],
        &entries[entries.len() / 2],
        &entries[entries.len() - 1],
    ] {
        let kept = std::fs::read(victim).unwrap();
        flip_a_bit(victim);
        found("bit in", victim);
        // A space more changes no meaning; it still was not us.
        std::fs::write(victim, [&kept[..], b" "].concat()).unwrap();
        found("space in", victim);
        std::fs::remove_file(victim).unwrap();
        found("removed", victim);
        std::fs::write(victim, &kept).unwrap();
    }
    let stranger = head.with_file_name(format!("{:012}.json", entries.len()));
    std::fs::copy(&entries[entries.len() - 1], &stranger).unwrap();
    found("added", &stranger);
    std::fs::remove_file(&stranger).unwrap();
    let kept = std::fs::read(head).unwrap();
    flip_a_bit(head);
    assert_ne!(sandbox.verify(), Vec::<String>::new());
    std::fs::remove_file(head).unwrap();
    found("removed", head);
    std::fs::write(head, kept).unwrap();
    assert_eq!(sandbox.verify(), Vec::<String>::new());
}
