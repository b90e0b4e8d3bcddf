//! Files that load, and what they load as.

use super::*;

#[test]
fn the_shop_example_loads() {
    let pipeline = check(include_str!("../../../../../client/examples/shop/shop.yaml"));
    let pipeline = pipeline.unwrap_or_else(|report| panic!("{report}"));
    assert_eq!(pipeline.columns.len(), 14);
    assert_eq!(pipeline.lake.url, "file:///pipelines/lake");
}
