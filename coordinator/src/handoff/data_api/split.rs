//! The Data API takes statements one by one: a text with several of them is taken apart.

/// The statements of a text, without their semicolons. Quotes are respected; comments are not expected.
pub(super) fn statements(sql: &str) -> Vec<String> {
    let (mut all, mut one, mut quote) = (Vec::new(), String::new(), None);
    for c in sql.chars() {
        match (c, quote) {
            (';', None) => all.push(std::mem::take(&mut one)),
            ('\'' | '"', None) => {
                quote = Some(c);
                one.push(c);
            }
            (c, open) => {
                if open == Some(c) {
                    quote = None;
                }
                one.push(c);
            }
        }
    }
    all.push(one);
    let trimmed = all.iter().map(|one| one.trim().to_owned());
    trimmed.filter(|one| !one.is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn semicolons_part_statements_except_in_quotes() {
        let sql = "CREATE TABLE \"a;b\" (c int);\n\nCOMMENT ON TABLE t IS 'it''s; so';\n";
        assert_eq!(
            statements(sql),
            [
                "CREATE TABLE \"a;b\" (c int)",
                "COMMENT ON TABLE t IS 'it''s; so'"
            ]
        );
        assert!(statements(" ;\n; ").is_empty());
    }
}
