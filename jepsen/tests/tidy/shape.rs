//! Sizes of files, functions and lines, first words, and words that mean "not done".

use crate::source::{Source, words};

/// Most lines of a file before its tests.
const FILE_MAX: usize = 500;
/// Most lines of a function.
const FUNCTION_MAX: usize = 70;
/// Most columns of a line.
const LINE_MAX: usize = 100;

/// A file that is too long.
pub(crate) fn long_file(source: &Source) -> Vec<String> {
    let lines = match source.is_test_file() {
        true => source.code.lines().count(),
        false => source.product_lines(),
    };
    let what = format!("{lines} lines, {FILE_MAX} at most");
    (lines > FILE_MAX).then(|| source.complaint(lines - 1, &what)).into_iter().collect()
}

/// Lines that are too long.
pub(crate) fn long_lines(source: &Source) -> Vec<String> {
    let lines = source.text.lines().enumerate();
    let long = lines.filter(|(_, line)| line.chars().count() > LINE_MAX);
    long.map(|(line, _)| source.complaint(line, "more than 100 columns")).collect()
}

/// Functions that are too long, signature and closing brace included.
pub(crate) fn long_functions(source: &Source) -> Vec<String> {
    let words = words(&source.code);
    let mut complaints = Vec::new();
    for pair in words.windows(2) {
        let ((line, place, word), (_, name_place, name)) = (pair[0], pair[1]);
        let named = source.code[place + word.len()..name_place].trim().is_empty();
        if word != "fn" || !named {
            continue;
        }
        let length = body_end(&source.code[place..]).map_or(1, |text| text.lines().count());
        if length > FUNCTION_MAX {
            let what = format!("fn {name} has {length} lines, {FUNCTION_MAX} at most");
            complaints.push(source.complaint(line, &what));
        }
    }
    complaints
}

/// A function's text up to its closing brace; `None` for a declaration without body.
fn body_end(code: &str) -> Option<&str> {
    let (mut nested, mut braces) = (0, 0);
    for (place, c) in code.char_indices() {
        match c {
            '(' | '[' => nested += 1,
            ')' | ']' => nested -= 1,
            ';' if nested == 0 && braces == 0 => return None,
            '{' => braces += 1,
            '}' => braces -= 1,
            _ => {}
        }
        if c == '}' && braces == 0 && nested == 0 {
            return Some(&code[..=place]);
        }
    }
    None
}

/// A file that does not begin with what it is.
pub(crate) fn undocumented(source: &Source) -> Vec<String> {
    let documented = source.text.starts_with("//! ");
    let complaint = || source.complaint(0, "a file begins with `//!`: what it is");
    (!documented).then(complaint).into_iter().collect()
}

/// Words for what is not done, or not run.
pub(crate) fn unfinished(source: &Source) -> Vec<String> {
    let mut complaints = Vec::new();
    let mark = concat!("FIX", "ME");
    for (line, (code, text)) in source.code.lines().zip(source.text.lines()).enumerate() {
        for word in ["todo!", "unimplemented!", "#[ignore"] {
            if code.contains(word) {
                complaints.push(source.complaint(line, word));
            }
        }
        if text.contains(mark) {
            complaints.push(source.complaint(line, mark));
        }
    }
    complaints
}

/// Tests that sleep instead of waiting for a condition.
///
/// The pause between two looks at a condition belongs in a function named `until`.
pub(crate) fn sleeping_tests(source: &Source) -> Vec<String> {
    let code = source.tests();
    let words = words(&code);
    let mut function = "";
    let mut complaints = Vec::new();
    for pair in words.windows(2) {
        let (before, (line, place, word)) = (pair[0].2, pair[1]);
        if before == "fn" {
            function = word;
        }
        let called = code[place + word.len()..].starts_with('(');
        if word == "sleep" && called && function != "until" {
            complaints.push(source.complaint(line, "a test waits for a condition"));
        }
    }
    complaints
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(rule: fn(&Source) -> Vec<String>, text: &str, complaints: &[&str]) {
        assert_eq!(rule(&Source::new("a/src/b.rs", text)), complaints, "{text:.60}");
    }

    #[test]
    fn long_files_are_found_and_tests_do_not_count() {
        let long = "x\n".repeat(501);
        check(long_file, &long, &["a/src/b.rs:501: 501 lines, 500 at most"]);
        check(long_file, &format!("{}#[cfg(test)]\n{long}", "x\n".repeat(500)), &[]);
        let tests = Source::new("a/tests/b.rs", &long);
        assert_eq!(long_file(&tests).len(), 1);
    }

    #[test]
    fn long_lines_are_found() {
        check(
            long_lines,
            &format!("a\n{}", "é".repeat(101)),
            &["a/src/b.rs:2: more than 100 columns"],
        );
        check(long_lines, &"é".repeat(100), &[]);
    }

    #[test]
    fn long_functions_are_found() {
        let body = |lines| format!("\nfn f(a: [u8; 2]) {{\n{}}}\n", "{ \"}\" }\n".repeat(lines));
        check(long_functions, &body(68), &[]);
        check(long_functions, &body(69), &["a/src/b.rs:2: fn f has 71 lines, 70 at most"]);
    }

    #[test]
    fn declarations_and_pointers_are_no_functions() {
        let rest = "x();\n".repeat(80);
        check(long_functions, &format!("fn f(&self) -> [u8; 2];\nmod m {{\n{rest}}}"), &[]);
        check(long_functions, &format!("struct S(fn(u8) -> u8);\nmod m {{\n{rest}}}"), &[]);
    }

    #[test]
    fn a_file_says_what_it_is() {
        check(undocumented, "//! This.\n", &[]);
        let complaint = "a/src/b.rs:1: a file begins with `//!`: what it is";
        check(undocumented, "use a;\n//! This.\n", &[complaint]);
        check(undocumented, "", &[complaint]);
    }

    #[test]
    fn what_is_not_done_is_found() {
        check(unfinished, "fn f() { todo!() }", &["a/src/b.rs:1: todo!"]);
        check(unfinished, "\nunimplemented!(\"x\")", &["a/src/b.rs:2: unimplemented!"]);
        check(unfinished, "#[ignore = \"slow\"]", &["a/src/b.rs:1: #[ignore"]);
        assert_eq!(unfinished(&Source::new("a", concat!("// FIX", "ME later"))).len(), 1);
        check(unfinished, "// a todo!() in words", &[]);
    }

    #[test]
    fn tests_that_sleep_are_found() {
        let sleep = "std::thread::sleep(SECOND);\n";
        check(sleeping_tests, sleep, &[]);
        let complaint = "a/src/b.rs:3: a test waits for a condition";
        check(sleeping_tests, &format!("{sleep}#[cfg(test)]\n{sleep}"), &[complaint]);
        check(sleeping_tests, "#[cfg(test)]\n// sleep(1)\nfn asleep() {}", &[]);
        check(sleeping_tests, &format!("#[cfg(test)]\nfn until() {{ {sleep} }}"), &[]);
    }
}
