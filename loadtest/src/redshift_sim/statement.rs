//! Statements: COPY taken apart and held against the documented options, the rest put into PostgreSQL's words.
//!
//! | option for Parquet                                            | Redshift's guide, "COPY from columnar data formats" |
//! |---------------------------------------------------------------|-----------------------------------------------------|
//! | FROM, IAM_ROLE, MANIFEST, FILLRECORD, ACCEPTINVCHARS, STATUPDATE, EXPLICIT_IDS, a column list, SERIALIZETOJSON | allowed |
//! | REGION, MAXERROR, ACCEPTANYDATE, every option of text formats | refused                                              |
//!
//! | in other statements                                           | Redshift's guide                                    |
//! |---------------------------------------------------------------|-----------------------------------------------------|
//! | a backslash in a text literal is an escape                    | "QUOTE_LITERAL function"                            |
//! | `json_serialize` writes no blanks, `null` for a null, and fails beyond the longest VARCHAR | "JSON_SERIALIZE function" |
//! | `json_size` is the length of that text in bytes               | "JSON_SIZE function"                                |

use tokio_postgres::NoTls;

use super::Refused;

/// What PostgreSQL has to be told in each session.
pub(super) const SETTINGS: &str =
    "SET standard_conforming_strings = off; SET escape_string_warning = off; SET backslash_quote = on";

/// Redshift's functions that PostgreSQL lacks.
const FUNCTIONS: &str = r#"
CREATE OR REPLACE FUNCTION public.json_written(value jsonb) RETURNS text LANGUAGE sql IMMUTABLE AS $$
  SELECT CASE jsonb_typeof(value)
    WHEN 'object' THEN '{' || coalesce((SELECT string_agg(to_json(e.key)::text || ':' || public.json_written(e.value), ',')
      FROM jsonb_each(value) AS e), '') || '}'
    WHEN 'array' THEN '[' || coalesce((SELECT string_agg(public.json_written(e.item), ',' ORDER BY e.n)
      FROM jsonb_array_elements(value) WITH ORDINALITY AS e(item, n)), '') || ']'
    ELSE value::text END
$$;
CREATE OR REPLACE FUNCTION public.json_size(value jsonb) RETURNS integer LANGUAGE sql IMMUTABLE AS $$
  SELECT octet_length(coalesce(public.json_written(value), 'null'))
$$;
CREATE OR REPLACE FUNCTION public.json_serialize(value jsonb) RETURNS text LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
  IF public.json_size(value) > 65535 THEN
    RAISE EXCEPTION 'JSON_SERIALIZE: the value exceeds the VARCHAR limit of 65535 bytes';
  END IF;
  RETURN coalesce(public.json_written(value), 'null');
END
$$;
"#;

/// Makes them, in the PostgreSQL that keeps the rows.
pub(super) async fn make_functions(dsn: &str) -> Result<(), tokio_postgres::Error> {
    let (client, connection) = tokio_postgres::connect(dsn, NoTls).await?;
    let running = tokio::spawn(connection);
    let made = client.batch_execute(FUNCTIONS).await;
    running.abort();
    made
}

/// A COPY of Parquet.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Copy {
    /// As written.
    pub(super) table: String,
    /// The list of columns, unquoted; none for all of the table's.
    pub(super) columns: Option<Vec<String>>,
    pub(super) from: String,
    pub(super) manifest: bool,
    pub(super) serialize_to_json: bool,
}

/// A word, a quoted text or a sign.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Token {
    Word(String),
    Quoted(String),
    Text(String),
    Sign(char),
}

pub(super) fn is_copy(sql: &str) -> bool {
    sql.trim_start()
        .get(..5)
        .is_some_and(|start| start.eq_ignore_ascii_case("copy "))
}

fn syntax(what: &str) -> Refused {
    Refused::new("42601", format!("syntax error in COPY: {what}"))
}

impl Copy {
    pub(super) fn parse(sql: &str) -> Result<Self, Refused> {
        let mut tokens = tokens(sql)?.into_iter().skip(1).peekable();
        let mut table = String::new();
        while let Some(token) = tokens.next_if(|token| *token != Token::Sign('(') && !is(token, "from")) {
            match token {
                Token::Word(word) => table.push_str(&word),
                Token::Quoted(word) => table.push_str(&format!("\"{}\"", word.replace('"', "\"\""))),
                Token::Sign(sign) => table.push(sign),
                Token::Text(_) => return Err(syntax("a text where the table's name belongs")),
            }
        }
        let columns = match tokens.next_if_eq(&Token::Sign('(')) {
            Some(_) => {
                let list = tokens.by_ref().take_while(|token| *token != Token::Sign(')'));
                let name = |token| match token {
                    Token::Word(name) | Token::Quoted(name) => Some(name),
                    Token::Text(_) | Token::Sign(_) => None,
                };
                Some(list.filter_map(name).collect())
            }
            None => None,
        };
        if !tokens.next().is_some_and(|token| is(&token, "from")) {
            return Err(syntax("FROM is missing"));
        }
        let Some(Token::Text(from)) = tokens.next() else {
            return Err(syntax("FROM needs an address"));
        };
        let mut copy = Self {
            table,
            columns,
            from,
            manifest: false,
            serialize_to_json: false,
        };
        let (mut parquet, mut role) = (false, false);
        while let Some(token) = tokens.next() {
            let Token::Word(word) = token else {
                return Err(syntax("an option is a word"));
            };
            match word.as_str() {
                "iam_role" => {
                    role = tokens
                        .next()
                        .is_some_and(|token| is(&token, "default") || is_role(&token))
                }
                "manifest" => copy.manifest = true,
                "format" => {
                    tokens.next_if(|token| is(token, "as"));
                    parquet = tokens.next().is_some_and(|token| is(&token, "parquet"));
                    copy.serialize_to_json = tokens.next_if(|token| is(token, "serializetojson")).is_some();
                }
                "fillrecord" | "explicit_ids" => {}
                "statupdate" => {
                    tokens.next_if(|token| is(token, "on") || is(token, "off"));
                }
                "acceptinvchars" => {
                    tokens.next_if(|token| is(token, "as"));
                    tokens.next_if(|token| matches!(token, Token::Text(_)));
                }
                other => {
                    let option = other.to_uppercase();
                    let message = format!("{option} argument is not supported for PARQUET based COPY");
                    return Err(Refused::new("0A000", message));
                }
            }
        }
        match (parquet, role) {
            (true, true) => Ok(copy),
            (false, _) => Err(Refused::new(
                "0A000",
                "the simulator copies FORMAT AS PARQUET only",
            )),
            (true, false) => Err(Refused::new(
                "42601",
                "COPY needs an IAM_ROLE: default, or a role's ARN",
            )),
        }
    }
}

fn is(token: &Token, word: &str) -> bool {
    matches!(token, Token::Word(found) if found == word)
}

fn is_role(token: &Token) -> bool {
    matches!(token, Token::Text(role) if role.starts_with("arn:aws") && role.contains(":role/"))
}

fn tokens(sql: &str) -> Result<Vec<Token>, Refused> {
    let mut tokens = Vec::new();
    let mut rest = sql.trim().trim_end_matches(';');
    while let Some(first) = rest.chars().next() {
        if first.is_whitespace() {
            rest = rest.trim_start();
        } else if first == '\'' || first == '"' {
            let (text, after) = quoted(&rest[1..], first).ok_or_else(|| syntax("a quote is open"))?;
            tokens.push(if first == '"' {
                Token::Quoted(text)
            } else {
                Token::Text(text)
            });
            rest = after;
        } else if first.is_alphanumeric() || first == '_' {
            let end = rest
                .find(|c: char| !c.is_alphanumeric() && c != '_')
                .unwrap_or(rest.len());
            tokens.push(Token::Word(rest[..end].to_lowercase()));
            rest = &rest[end..];
        } else {
            tokens.push(Token::Sign(first));
            rest = &rest[first.len_utf8()..];
        }
    }
    Ok(tokens)
}

/// A quoted text whose opening quote is gone, and what comes after it.
fn quoted(text: &str, quote: char) -> Option<(String, &str)> {
    let mut found = String::new();
    let mut rest = text;
    loop {
        let end = rest.find(quote)?;
        found.push_str(&rest[..end]);
        rest = &rest[end + 1..];
        match rest.strip_prefix(quote) {
            Some(after) => {
                found.push(quote);
                rest = after;
            }
            None => return Some((found, rest)),
        }
    }
}

/// A statement in PostgreSQL's words.
pub(super) fn translate(sql: &str, copied: u64) -> Result<String, Refused> {
    let upper = sql.to_uppercase();
    for word in ["RETURNING", "ON CONFLICT", "TO_REGCLASS", "JSONB"] {
        if upper.contains(word) {
            let message = format!("Redshift does not know {word}");
            return Err(Refused::new("0A000", message));
        }
    }
    let mut sql = sql.replace("pg_last_copy_count()", &copied.to_string());
    if upper.contains("CREATE TABLE") || upper.contains("ADD COLUMN") {
        for word in ["zstd", "az64", "raw", "bytedict"] {
            sql = sql.replace(&format!(" ENCODE {word}"), "");
        }
        for style in ["DISTSTYLE ALL", "DISTSTYLE AUTO", "DISTSTYLE KEY"] {
            sql = sql.replace(style, "");
        }
        for words in [",\n    PRIMARY KEY (", "COMPOUND SORTKEY (", "DISTKEY ("] {
            while let Some(at) = sql.find(words) {
                let end = sql[at..].find(')').map_or(sql.len(), |end| at + end + 1);
                sql.replace_range(at..end, "");
            }
        }
        sql = sql.replace(" SUPER", " jsonb").replace("SYSDATE", "now()");
    }
    Ok(sql)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str =
        "COPY a.t (id, \"user\") FROM 's3://b/m' IAM_ROLE default FORMAT AS PARQUET SERIALIZETOJSON MANIFEST";

    #[test]
    fn a_copy_is_taken_apart() {
        let copy = Copy::parse(GOOD).unwrap();
        assert_eq!(
            copy,
            Copy {
                table: "a.t".to_owned(),
                columns: Some(vec!["id".to_owned(), "user".to_owned()]),
                from: "s3://b/m".to_owned(),
                manifest: true,
                serialize_to_json: true,
            }
        );
    }

    #[test]
    fn every_option_that_parquet_does_not_allow_is_refused() {
        for option in [
            "REGION 'eu-central-1'",
            "MAXERROR 10",
            "ACCEPTANYDATE",
            "DELIMITER '|'",
            "GZIP",
            "CSV",
            "IGNOREHEADER 1",
            "DATEFORMAT 'auto'",
            "TIMEFORMAT 'auto'",
            "NULL AS 'x'",
            "TRUNCATECOLUMNS",
            "BLANKSASNULL",
            "EMPTYASNULL",
            "ESCAPE",
            "REMOVEQUOTES",
            "ROUNDEC",
            "TRIMBLANKS",
            "FIXEDWIDTH 'a:1'",
            "COMPUPDATE ON",
            "NOLOAD",
            "ENCODING UTF8",
        ] {
            let refused = Copy::parse(&format!("{GOOD} {option}")).unwrap_err();
            assert_eq!(refused.code, "0A000", "{option}: {refused}");
        }
        for option in [
            "FILLRECORD",
            "ACCEPTINVCHARS AS '?'",
            "STATUPDATE ON",
            "EXPLICIT_IDS",
        ] {
            assert!(Copy::parse(&format!("{GOOD} {option}")).is_ok(), "{option}");
        }
    }

    #[test]
    fn a_copy_without_a_role_is_refused() {
        assert!(Copy::parse("COPY t FROM 's3://b/m' FORMAT AS PARQUET").is_err());
        assert!(Copy::parse("COPY t FROM 's3://b/m' IAM_ROLE 'me' FORMAT AS PARQUET").is_err());
    }
}
