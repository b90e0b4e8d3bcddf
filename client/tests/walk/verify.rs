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
