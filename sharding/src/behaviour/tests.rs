//! Behaviours: what is refused, what a call cannot do, and that two engines agree.

mod random;
mod sample;

use atoll_store::owned::NewEvent;
use bytes::Bytes;

use super::*;
use crate::owner::behaviour::{Behaviours, Command, Decision, Failure, Refusal};

/// A sound behaviour around a body of `decide`.
fn around(top: &str, decide: &str) -> String {
    format!(
        "{top}\nexport const initial = {{ n: 0 }};\n\
         export function decide(state, command) {{ {decide} }}\n\
         export function evolve(state, event) {{ return {{ n: state.n + 1 }}; }}\n"
    )
}

fn command(data: &str) -> Command {
    Command { kind: "do".into(), data: Bytes::copy_from_slice(data.as_bytes()) }
}

/// An engine with one behaviour, called in turn.
struct One {
    engine: Engine,
    hash: BehaviourHash,
}

impl One {
    fn new(text: &str) -> One {
        let mut engine = Engine::new(Limits::default());
        let hash = engine.add(text).unwrap();
        One { engine, hash }
    }

    fn decide(&mut self, state: &str, data: &str) -> Result<Decision, Refusal> {
        let state = Bytes::copy_from_slice(state.as_bytes());
        self.engine.find(&self.hash).unwrap().decide(&state, &command(data))
    }

    fn reply(&mut self, data: &str) -> String {
        let decision = self.decide("{\"n\":0}", data).unwrap();
        String::from_utf8(decision.reply.to_vec()).unwrap()
    }

    fn failure(&mut self, data: &str) -> Failure {
        match self.decide("{\"n\":0}", data) {
            Err(Refusal::Failed(failure)) => failure,
            other => panic!("{other:?}"),
        }
    }
}

fn refused(text: &str) -> String {
    check(text, Limits::default()).unwrap_err().to_string()
}

#[test]
fn what_is_no_behaviour_is_refused_with_its_place() {
    let cases = [
        ("export const initial = {;\n", "line 1, column 25: SyntaxError: "),
        ("\n\nlet a = 1;\nlet a = 2;", "line 4, column "),
        ("import x from \"y\";\n", "line 1, column 1: "),
        ("const a = 1;\n  throw new Error(\"at once\");", "line 2, column "),
        (
            "export const initial = 1;\nexport function decide() {}\n",
            "line 1, column 1: missing export `evolve`",
        ),
        (
            &around("export const more = 1;", ""),
            "line 1, column 1: unknown export `more`: there are initial",
        ),
        (&around("export default 1;", ""), "line 1, column 1: write `export` before a declaration"),
        (
            &around("const a = 1; export const examples = [];", ""),
            "write `export` at the beginning of a line",
        ),
        (
            &around("const t = `\nexport const t = 1;\n`;", ""),
            "line 2, column 1: this line reads as an export of `t`, and is none",
        ),
        (
            &around("", "")
                .replace("function evolve(state, event)", "const evolve = {}; function f()"),
            "line 4, column 1: `evolve` must be a function",
        ),
        (
            &around("", "").replace("{ n: 0 }", "() => 1"),
            "line 2, column 1: `initial` must be a value",
        ),
        (
            &around("", "").replace("{ n: 0 }", "undefined"),
            "line 2, column 1: TypeError: `initial` is not a JSON value",
        ),
        (
            &around("export const snapshotVersion = 0;", ""),
            "line 1, column 1: `snapshotVersion` is a whole number from 1",
        ),
        (&around("for (;;) {}", ""), "line 1, column "),
        (&around("await 1;", ""), ""),
        (&"x".repeat(SOURCE_MAX + 1), ""),
    ];
    for (text, expected) in cases {
        let found = refused(text);
        assert!(found.contains(expected), "{text:.80}\nexpected {expected}\nfound    {found}");
    }
}

#[test]
fn examples_are_run() {
    let with = |example: &str| {
        let decide = "if (command.type === \"no\") throw new Rejection(\"never\");\n\
                      return { events: [{ type: \"done\", data: command.data }], reply: state.n };";
        around("", decide) + "export const examples = [" + example + "];\n"
    };
    let done = "{ type: \"done\", data: 1 }";
    let sound = [
        format!("{{ given: [{done}], when: {{ type: \"go\", data: 1 }}, then: [{done}] }}"),
        format!("{{ given: [{done}], when: {{ type: \"go\", data: 2 }}, then: {{ reply: 1 }} }}"),
        "{ given: [], when: { type: \"no\" }, then: { rejected: \"never\" } }".into(),
    ];
    let accepted = check(&with(&sound.join(", ")), Limits::default()).unwrap();
    assert_eq!((accepted.examples, accepted.snapshot_version), (3, 1));
    let cases = [
        (
            "{ given: [], when: { type: \"go\", data: 1 }, then: [] }",
            "example 1: expected events [], got [done1]",
        ),
        (
            "{ given: [], when: { type: \"go\" }, then: { reply: 7 } }",
            "example 1: expected reply 7, got 0",
        ),
        (
            "{ given: [], when: { type: \"no\" }, then: [] }",
            "example 1: expected no rejection, got rejected: \"never\"",
        ),
        (
            "{ given: [], when: { type: \"go\" }, then: { rejected: \"x\" } }",
            "example 1: expected rejected: \"x\", got no rejection",
        ),
        ("{ given: 1 }", "example 1: an example is {given"),
        ("{ given: [], when: { type: \"go\" }, then: {} }", "example 1: `then` is"),
    ];
    for (example, expected) in cases {
        let found = refused(&with(example));
        assert!(found.starts_with("line 6, column 1: ") && found.contains(expected), "{found}");
    }
    let thrown = around("", "\n  return nothing.at.all;")
        + "export const examples = \
                 [{ given: [], when: { type: \"go\" }, then: [] }];\n";
    assert!(refused(&thrown).starts_with("line 4, column "), "{}", refused(&thrown));
    assert!(refused(&thrown).contains("example 1: ReferenceError: nothing is not defined"));
}

#[test]
fn an_endless_loop_ends_after_the_same_number_of_steps_in_any_engine() {
    let text = around("let n = 0;", "for (;;) { try { for (;;) n++; } catch (e) {} finally { } }");
    let mut one = One::new(&text);
    assert_eq!(one.failure("0"), Failure::Budget);
    assert_eq!(one.failure("0"), Failure::Budget);
    // The last number of rounds that is within the budget is the same after any other calls.
    let text = around("", "for (let i = 0; i < command.data; i++) {} return { reply: 1 };");
    let within = |one: &mut One, rounds: u64| one.decide("0", &rounds.to_string()).is_ok();
    let most = |one: &mut One| {
        let (mut low, mut high) = (400_000, 600_000);
        while high - low > 1 {
            let middle = (low + high) / 2;
            if within(one, middle) { low = middle } else { high = middle }
        }
        low
    };
    let mut fresh = One::new(&text);
    let limit = most(&mut fresh);
    assert!((490_000..510_000).contains(&limit), "{limit}");
    let mut used = One::new(&text);
    for rounds in [1, 77_777, 123_456, 5] {
        assert!(within(&mut used, rounds));
    }
    assert!(within(&mut used, limit) && !within(&mut used, limit + 1));
    assert!(within(&mut used, 3) && within(&mut used, limit) && !within(&mut used, limit + 1));
}

#[test]
fn a_memory_bomb_and_deep_recursion_are_failures_of_their_own() {
    let cases = [
        ("const a = []; for (;;) a.push(\"x\".repeat(1 << 20) + a.length);", Failure::Memory),
        ("return \"x\".repeat(1 << 28);", Failure::Memory),
        ("const f = (n) => f(n + 1) + 1; return f(0);", Failure::Stack),
        ("let a = []; for (let i = 0; i < 1e5; i++) a = [a]; return { reply: a };", Failure::Stack),
    ];
    for (decide, expected) in cases {
        let mut one =
            One::new(&around("", &format!("if (command.data) {{ {decide} }} return {{}};")));
        assert!(one.decide("0", "0").is_ok());
        assert_eq!(one.failure("1"), expected, "{decide}");
        assert!(one.decide("0", "0").is_ok(), "the next call is well");
    }
    // Memory of calls before does not count.
    let mut one =
        One::new(&around("", "const a = \"x\".repeat(40 << 20); return { reply: a.length };"));
    for _ in 0..5 {
        assert_eq!(one.reply("0"), "41943040");
    }
}

#[test]
fn nothing_of_one_call_is_seen_by_the_next() {
    let top = "let n = 0; const seen = new Map(); const re = /a/g; const box = { n: 0 };\n\
               const next = (() => { let hidden = 0; return () => ++hidden; })();\n\
               function* gen() { let i = 0; for (;;) yield ++i; } const g = gen();\n\
               class C { static count = 0; }";
    let decide = "n++; seen.set(n, n); re.test(\"aa\"); box.n++; C.count++;\n\
                  decide.n = (decide.n ?? 0) + 1;\n\
                  return { reply: [n, seen.size, re.lastIndex, box.n, next(), g.next().value,\n\
                  C.count, decide.n] };";
    let mut one = One::new(&around(top, decide));
    for _ in 0..3 {
        assert_eq!(one.reply("0"), "[1,1,1,1,1,1,1,1]");
    }
}

#[test]
fn what_is_shared_cannot_be_tampered_with() {
    let attempts = [
        "Array.prototype.map = () => 1",
        "Object.prototype.leak = 1",
        "globalThis.leak = 1",
        "JSON.parse = () => 1",
        "Math.max = () => 1",
        "Rejection.prototype.name = \"x\"",
        "Error.prototype.toString = () => \"x\"",
        "delete Array.prototype.map",
        "leak = 1",
        "Object.setPrototypeOf(Array.prototype, { leak: 1 })",
        "Map.prototype.get.leak = 1",
        "Object.defineProperty(Object.prototype, \"leak\", { value: 1 })",
        "Object.getPrototypeOf([][Symbol.iterator]()).next = () => 1",
        "Object.getPrototypeOf(Object.getPrototypeOf((function* () {})())).leak = 1",
        "Object.getPrototypeOf(Object.getPrototypeOf(\"\".matchAll(/x/g))).leak = 1",
        "(0, eval)(\"let leak = 1\")",
        "Function(\"return 1\")()",
        "(() => {}).constructor(\"return 1\")()",
        "(async () => {}).constructor(\"return 1\")()",
        "Reflect.construct(Function, [\"\"])",
        "Symbol.prototype.leak = 1",
        "RegExp.prototype.test = () => 1",
        "Error.stackTraceLimit = 9",
    ];
    for attempt in attempts {
        let mut one = One::new(&around("", &format!("{attempt}; return {{}};")));
        let result = one.decide("0", "0");
        let refused = matches!(&result, Err(Refusal::Failed(Failure::Error(_))));
        assert!(refused, "{attempt}: {result:?}");
    }
    // What it freezes may still be shadowed, as errors and items do.
    let decide = "const e = new Error(\"m\"); e.name = \"N\"; const o = {}; o.toString = 1;\n\
                  o.constructor = 2; o.__proto__ = 3;\n\
                  class E extends Error { constructor() { super(); this.name = \"E\"; } }\n\
                  return { reply: [e.name, o, Object.keys(o).length, new E().name,\n\
                  new Error(\"x\").name] };";
    let reply = One::new(&around("", decide)).reply("0");
    assert_eq!(
        reply,
        "[\"N\",{\"__proto__\":3,\"constructor\":2,\"toString\":1},3,\"E\",\"Error\"]"
    );
}

#[test]
fn clocks_chance_and_what_differs_between_nodes_are_gone() {
    let names = [
        "Date",
        "performance",
        "WeakRef",
        "FinalizationRegistry",
        "Promise",
        "setTimeout",
        "fetch",
        "queueMicrotask",
        "Intl",
        "Atomics",
        "SharedArrayBuffer",
        "eval",
        "console",
        "process",
        "require",
        "std",
        "os",
        "Math.random",
        "Math.sin",
        "Math.exp",
        "Math.log",
        "Temporal",
        "Error.captureStackTrace",
        "Error.prepareStackTrace",
        "Int8Array",
        "ArrayBuffer",
    ];
    for name in names {
        let (object, property) = name.split_once('.').unwrap_or(("globalThis", name));
        let decide = format!("return {{ reply: typeof {object}[\"{property}\"] }};");
        assert_eq!(One::new(&around("", &decide)).reply("0"), "\"undefined\"", "{name}");
    }
    let decide = "try { null.x } catch (e) { return { reply: [e.stack ?? \"\", e.message] } }";
    let reply = One::new(&around("", decide)).reply("0");
    assert!(reply.starts_with("[\"\","), "{reply}");
    let decide = "return { reply: [0.1 + 0.2, 1e21, 1e-7, -0, 5e-324, 123456789012345680000,\n\
                  (12.5).toLocaleString()] };";
    let reply = One::new(&around("", decide)).reply("0");
    assert_eq!(reply, "[0.30000000000000004,1e+21,1e-7,0,5e-324,123456789012345680000,\"12.5\"]");
}

#[test]
fn jobs_of_asynchronous_code_never_run() {
    let decide = "(async () => { await 1; state.n = 9; })(); return { reply: state.n };";
    let mut one = One::new(&around("", decide));
    for _ in 0..3 {
        let _ = one.decide("{\"n\":0}", "0");
    }
    let mut plain = One::new(&around("", "return { reply: command.data };"));
    assert_eq!(plain.reply("1"), "1");
}

#[test]
fn decisions_have_a_shape() {
    let cases = [
        ("return 1;", "`decide` returns"),
        ("", "what `decide` returned is not a JSON value"),
        ("return { event: [] };", "not \"event\""),
        ("return { events: {} };", "`decide` returns"),
        ("return { events: [{ type: \"\" }] };", "an event is"),
        ("return { events: [{ type: \"a\", more: 1 }] };", "an event is"),
        ("return { reply: \"\\ud800\" };", "not Unicode"),
        ("throw { a: 1 };", "threw"),
        ("throw new TypeError(\"oh\");", "TypeError: oh"),
        ("const a = {}; a.a = a; return a;", "TypeError"),
    ];
    for (decide, expected) in cases {
        match One::new(&around("", decide)).failure("0") {
            Failure::Error(text) => assert!(text.contains(expected), "{decide}: {text}"),
            other => panic!("{decide}: {other:?}"),
        }
    }
    let decision = One::new(&around("", "return { events: [{ type: \"a\" }] };")).decide("0", "0");
    let event = NewEvent { kind: "a".into(), data: "null".into() };
    assert_eq!(decision, Ok(Decision { events: vec![event], reply: "null".into() }));
    let rejected = One::new(&around("", "throw new Rejection(\"no é\");")).decide("0", "0");
    assert_eq!(rejected, Err(Refusal::Rejected("no é".into())));
}

#[test]
fn values_are_canonical() {
    let mut one = One::new(&around("", "return { reply: command.data };"));
    for (value, expected) in [
        ("{\"b\":1,\"a\":[1.0,1e2]}", "{\"a\":[1,100],\"b\":1}"),
        ("{\"\\ud83d\\ude00\":1,\"\\ufb33\":2}", "{\"\u{1F600}\":1,\"\u{FB33}\":2}"),
        ("\"\\u0001\\n\\\"\\/\"", "\"\\u0001\\n\\\"/\""),
    ] {
        assert_eq!(one.reply(value), expected);
    }
    let deep = format!("{}1{}", "[".repeat(64), "]".repeat(64));
    assert!(matches!(one.failure(&deep), Failure::Error(text) if text.contains("deeper")));
}

#[test]
fn an_event_in_the_log_gets_twice_the_limits() {
    let text = around("", "")
        .replace("return { n: state.n + 1 };", "for (let i = 0; i < event.data; i++) {} return 1;");
    let mut one = One::new(&text);
    let behaviour = one.engine.find(&one.hash).unwrap();
    let event = |data: &str| NewEvent { kind: "e".into(), data: data.to_string().into() };
    let state = Bytes::from("0");
    assert_eq!(behaviour.evolve(&state, &event("700000"), false), Err(Failure::Budget));
    assert_eq!(behaviour.evolve(&state, &event("700000"), true), Ok("1".into()));
    assert_eq!(behaviour.evolve(&state, &event("1100000"), true), Err(Failure::Budget));
}

#[test]
fn realms_are_bounded_and_come_back() {
    let mut engine = Engine::new(Limits::default());
    let texts: Vec<String> =
        (0..70).map(|n| around("", &format!("return {{ reply: {n} }};"))).collect();
    let hashes: Vec<BehaviourHash> = texts.iter().map(|text| engine.add(text).unwrap()).collect();
    for _ in 0..2 {
        for (n, hash) in hashes.iter().enumerate() {
            let decided = engine.find(hash).unwrap().decide(&"0".into(), &command("0")).unwrap();
            assert_eq!(decided.reply, n.to_string());
        }
    }
    engine.remove(&hashes[0]);
    assert!(engine.find(&hashes[0]).is_none());
}
