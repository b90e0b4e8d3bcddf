//! What a connection string says, in either of its forms: as pairs of a setting's name and its value. Empty ones say nothing.

/// The settings, in their order; of a user, a password and a database in a URL, under the names that the other form has.
pub(super) fn said(dsn: &str) -> Vec<(String, String)> {
    let mut said = match dsn.split_once("://") {
        Some((_, rest)) => of_url(rest),
        None => of_pairs(dsn),
    };
    said.retain(|(_, value)| !value.is_empty());
    said
}

/// `user:password@host:port/database?name=value&...`
fn of_url(rest: &str) -> Vec<(String, String)> {
    let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    let (who, rest) = rest.split_once('@').unwrap_or(("", rest));
    let (user, password) = who.split_once(':').unwrap_or((who, ""));
    let (place, settings) = rest.split_once('?').unwrap_or((rest, ""));
    let (_, database) = place.split_once('/').unwrap_or((place, ""));
    let mut said = vec![
        pair("user", user),
        pair("password", password),
        pair("dbname", database),
    ];
    let settings = settings.split('&').filter_map(|one| one.split_once('='));
    said.extend(settings.map(|(name, value)| pair(name, value)));
    said
}

/// `name=value name='a value'`
fn of_pairs(text: &str) -> Vec<(String, String)> {
    let (mut said, mut rest) = (Vec::new(), text);
    while let Some((name, after)) = rest.split_once('=') {
        let (value, after) = value(after.trim_start());
        said.push((name.trim().to_owned(), value));
        rest = after;
    }
    said
}

/// A value, and what comes after it.
fn value(text: &str) -> (String, &str) {
    let (is_quoted, text) = text.strip_prefix('\'').map_or((false, text), |rest| (true, rest));
    let (mut value, mut is_escaped) = (String::new(), false);
    for (at, c) in text.char_indices() {
        let is_end = if is_quoted { c == '\'' } else { c.is_whitespace() };
        match c {
            _ if is_escaped => {
                value.push(c);
                is_escaped = false;
            }
            '\\' => is_escaped = true,
            _ if is_end => return (value, &text[at + c.len_utf8()..]),
            _ => value.push(c),
        }
    }
    (value, "")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(dsn: &str) -> String {
        let pairs = said(dsn);
        let pairs: Vec<String> = pairs
            .iter()
            .map(|(name, value)| format!("{name}:{value}"))
            .collect();
        pairs.join(" ")
    }

    #[test]
    fn both_forms_say_the_same() {
        assert_eq!(shown("postgres://h:5439/dev"), "dbname:dev");
        assert_eq!(shown("postgres://a,b:1/"), "");
        assert_eq!(
            shown("postgresql://me:pw@h/dev?sslmode=require&user=x"),
            "user:me password:pw dbname:dev sslmode:require user:x"
        );
        assert_eq!(
            shown("host=h user = me password='it\\'s = \\\\' dbname=dev\tport=1"),
            "host:h user:me password:it's = \\ dbname:dev port:1"
        );
        assert_eq!(shown("host=h password='"), "host:h");
    }
}
