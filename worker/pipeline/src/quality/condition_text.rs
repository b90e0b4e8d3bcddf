//! The text form of a `row_condition`, read by descent: `or`, `and`, `not`, then a comparison.
//!
//! In: text. Out: [`Written`]. Anything that is left over is an error that shows where.

use serde_json::Value;

use super::condition::{Operand, Written, comparison};

/// Deepest nesting of parentheses and negations.
const DEPTH_MAX: usize = 64;

#[derive(Debug, Clone, PartialEq)]
enum Token {
    /// A bare word.
    Word(String),
    /// A word in backticks: a column, whatever it is called.
    Name(String),
    Text(String),
    Number(Value),
    Sign(&'static str),
}

/// Longest first, so that `<=` is not read as `<`.
const SIGNS: [&str; 20] = [
    "==", "!=", "<>", "<=", ">=", "&&", "||", "=", "<", ">", "&", "|", "~", "!", "(", ")", "[", "]", ",", ".",
];

/// Reads a condition.
pub(super) fn parse_text(text: &str) -> Result<Written, String> {
    let mut parser = Parser {
        tokens: tokens(text)?,
        at: 0,
        depth: 0,
    };
    let written = parser.any()?;
    match parser.peek() {
        None => Ok(written),
        Some(token) => Err(format!(
            "row_condition `{text}` does not end where it should: {token:?} is left over"
        )),
    }
}

fn tokens(text: &str) -> Result<Vec<Token>, String> {
    let mut tokens = Vec::new();
    let mut rest = text.trim_start();
    while let Some(first) = rest.chars().next() {
        let token_end;
        match first {
            '"' | '\'' | '`' => {
                let (inner, end) = quoted(rest, first)?;
                tokens.push(if first == '`' {
                    Token::Name(inner)
                } else {
                    Token::Text(inner)
                });
                token_end = end;
            }
            first
                if first.is_ascii_digit()
                    || (first == '-' && rest[1..].starts_with(|c: char| c.is_ascii_digit())) =>
            {
                token_end = rest
                    .char_indices()
                    .skip(1)
                    .find(|(at, c)| {
                        !(c.is_ascii_digit()
                            || matches!(c, '.' | 'e' | 'E')
                            || (matches!(c, '+' | '-') && rest[..*at].ends_with(['e', 'E'])))
                    })
                    .map_or(rest.len(), |(at, _)| at);
                let number = serde_json::from_str(&rest[..token_end])
                    .map_err(|_| format!("row_condition: `{}` is not a number", &rest[..token_end]))?;
                tokens.push(Token::Number(number));
            }
            first if first.is_alphabetic() || first == '_' => {
                token_end = rest
                    .find(|c: char| !c.is_alphanumeric() && c != '_')
                    .unwrap_or(rest.len());
                tokens.push(Token::Word(rest[..token_end].to_owned()));
            }
            _ => {
                let sign = SIGNS
                    .iter()
                    .find(|sign| rest.starts_with(**sign))
                    .ok_or_else(|| format!("row_condition `{text}`: `{first}` means nothing here"))?;
                tokens.push(Token::Sign(sign));
                token_end = sign.len();
            }
        }
        rest = rest[token_end..].trim_start();
    }
    Ok(tokens)
}

/// The text between quotes at the start, and where it ends.
fn quoted(text: &str, quote: char) -> Result<(String, usize), String> {
    let mut inner = String::new();
    let mut chars = text.char_indices().skip(1);
    while let Some((at, next)) = chars.next() {
        match next {
            '\\' if quote != '`' => inner.extend(chars.next().map(|(_, escaped)| escaped)),
            next if next == quote => return Ok((inner, at + next.len_utf8())),
            other => inner.push(other),
        }
    }
    Err(format!("row_condition: a {quote} is not closed"))
}

struct Parser {
    tokens: Vec<Token>,
    at: usize,
    depth: usize,
}

impl Parser {
    fn peek(&self) -> Option<&Token> {
        self.tokens.get(self.at)
    }

    fn take_sign(&mut self, signs: &[&str]) -> Option<&'static str> {
        match self.peek() {
            Some(Token::Sign(sign)) if signs.contains(sign) => {
                let sign = *sign;
                self.at += 1;
                Some(sign)
            }
            _ => None,
        }
    }

    fn take_word(&mut self, word: &str) -> bool {
        let found = matches!(self.peek(), Some(Token::Word(have)) if have.eq_ignore_ascii_case(word));
        self.at += usize::from(found);
        found
    }

    fn need_sign(&mut self, sign: &str) -> Result<(), String> {
        self.take_sign(&[sign])
            .map(|_| ())
            .ok_or_else(|| format!("row_condition: `{sign}` is missing"))
    }

    fn any(&mut self) -> Result<Written, String> {
        let mut parts = vec![self.all()?];
        while self.take_word("or") || self.take_sign(&["|", "||"]).is_some() {
            parts.push(self.all()?);
        }
        Ok(single_or(parts, Written::Or))
    }

    fn all(&mut self) -> Result<Written, String> {
        let mut parts = vec![self.one()?];
        while self.take_word("and") || self.take_sign(&["&", "&&"]).is_some() {
            parts.push(self.one()?);
        }
        Ok(single_or(parts, Written::And))
    }

    fn one(&mut self) -> Result<Written, String> {
        self.depth += 1;
        if self.depth > DEPTH_MAX {
            return Err(format!("row_condition is nested deeper than {DEPTH_MAX}"));
        }
        let written = if self.take_word("not") || self.take_sign(&["~", "!"]).is_some() {
            Written::Not(Box::new(self.one()?))
        } else if self.take_sign(&["("]).is_some() {
            let inner = self.any()?;
            self.need_sign(")")?;
            inner
        } else {
            self.comparison()?
        };
        self.depth -= 1;
        Ok(written)
    }

    fn comparison(&mut self) -> Result<Written, String> {
        let left = self.operand()?;
        let negate = |written: Written, negated: bool| {
            if negated {
                Written::Not(Box::new(written))
            } else {
                written
            }
        };
        if let Operand::Column(name) = &left {
            if self.take_sign(&["."]).is_some() {
                let method = self.method()?;
                let is_null = match method.to_ascii_lowercase().as_str() {
                    "isnull" | "isna" | "is_null" => true,
                    "notnull" | "notna" | "is_not_null" => false,
                    _ => return Err(format!("row_condition: the method `{method}` is not supported")),
                };
                return Ok(negate(Written::Null(name.clone()), !is_null));
            }
            if self.take_word("is") {
                let negated = self.take_word("not");
                if self.take_word("null") || self.take_word("none") {
                    return Ok(negate(Written::Null(name.clone()), negated));
                }
                return Err("row_condition: `is` must be followed by `null` or `not null`".to_owned());
            }
            let negated = self.take_word("not");
            if self.take_word("in") {
                return Ok(negate(Written::In(name.clone(), self.list()?), negated));
            }
            if negated {
                return Err("row_condition: `not` must be followed by `in` here".to_owned());
            }
        }
        let mut chain = Vec::new();
        let mut last = left;
        while let Some(sign) = self.take_sign(&["==", "!=", "<>", "<=", ">=", "=", "<", ">"]) {
            let next = self.operand()?;
            let sign = comparison(sign).ok_or("row_condition: not a comparison")?;
            chain.push(Written::Compare(last, sign, next.clone()));
            last = next;
        }
        match (chain.is_empty(), last) {
            (false, _) => Ok(single_or(chain, Written::And)),
            (true, Operand::Column(name)) => Ok(Written::Holds(name)),
            (true, Operand::Value(value)) => Err(format!("row_condition: {value} is no condition")),
        }
    }

    fn method(&mut self) -> Result<String, String> {
        let Some(Token::Word(name)) = self.peek().cloned() else {
            return Err("row_condition: a method's name is missing after `.`".to_owned());
        };
        self.at += 1;
        self.need_sign("(")?;
        self.need_sign(")")?;
        Ok(name)
    }

    fn list(&mut self) -> Result<Vec<Value>, String> {
        let close = match self.take_sign(&["[", "("]) {
            Some("[") => "]",
            Some(_) => ")",
            None => return Err("row_condition: `in` needs a list in brackets".to_owned()),
        };
        let mut values = Vec::new();
        while self.take_sign(&[close]).is_none() {
            match self.operand()? {
                Operand::Value(value) => values.push(value),
                Operand::Column(name) => {
                    return Err(format!("row_condition: `{name}` stands in a list of values"));
                }
            }
            if self.take_sign(&[","]).is_none() {
                self.need_sign(close)?;
                break;
            }
        }
        Ok(values)
    }

    fn operand(&mut self) -> Result<Operand, String> {
        let token = self.peek().cloned().ok_or("row_condition ends too early")?;
        self.at += 1;
        Ok(match token {
            Token::Text(text) => Operand::Value(Value::String(text)),
            Token::Number(number) => Operand::Value(number),
            Token::Name(name) => Operand::Column(name),
            Token::Word(word) => match word.as_str() {
                "True" | "true" | "TRUE" => Operand::Value(Value::Bool(true)),
                "False" | "false" | "FALSE" => Operand::Value(Value::Bool(false)),
                "col" if self.take_sign(&["("]).is_some() => {
                    let Some(Token::Text(name)) = self.peek().cloned() else {
                        return Err("row_condition: `col` needs a column's name in quotes".to_owned());
                    };
                    self.at += 1;
                    self.need_sign(")")?;
                    Operand::Column(name)
                }
                _ => Operand::Column(word),
            },
            Token::Sign(sign) => {
                return Err(format!(
                    "row_condition: `{sign}` where a column or value should be"
                ));
            }
        })
    }
}

fn single_or(mut parts: Vec<Written>, join: fn(Vec<Written>) -> Written) -> Written {
    match parts.pop() {
        Some(only) if parts.is_empty() => only,
        Some(last) => {
            parts.push(last);
            join(parts)
        }
        None => join(parts),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn column(name: &str) -> Operand {
        Operand::Column(name.to_owned())
    }

    #[test]
    fn three_dialects_say_the_same() {
        let expected = Written::Compare(column("x"), comparison(">=").unwrap(), Operand::Value(json!(1)));
        for text in ["x >= 1", "col(\"x\") >= 1", "`x`>=1", "(x >= 1)"] {
            assert_eq!(parse_text(text).unwrap(), expected, "{text}");
        }
        let null = Written::Null("x".to_owned());
        for text in ["x.isnull()", "x is null", "col(\"x\").isNull()", "x.isna()"] {
            assert_eq!(parse_text(text).unwrap(), null, "{text}");
        }
    }

    #[test]
    fn and_binds_closer_than_or_and_chains_are_joined() {
        let parsed = parse_text("a == 1 or b == 'y' and not c in ('p', 'q')").unwrap();
        assert!(
            matches!(&parsed, Written::Or(parts) if parts.len() == 2 && matches!(&parts[1], Written::And(_)))
        );
        assert!(matches!(parse_text("1 < x <= 3").unwrap(), Written::And(parts) if parts.len() == 2));
    }

    #[test]
    fn what_cannot_be_read_is_an_error() {
        for text in [
            "",
            "x >",
            "x ==== 1",
            "x == 'a",
            "x + 1 > 2",
            "1",
            "x not 3",
            "x.foo()",
            "(x > 1",
        ] {
            assert!(parse_text(text).is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_the_parser_panic(text in "\\PC{0,40}|[x1 ()<>=!'\"`&|~.,-]{0,40}") {
            let _ = parse_text(&text);
        }
    }
}
