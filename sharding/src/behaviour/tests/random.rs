//! A thousand random programs: a fresh engine and a much used one agree on every result.

use super::*;

/// SplitMix64 (Steele, Lea, Flood 2014).
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ (z >> 31)) % bound as u64) as usize
    }

    fn pick<'a>(&mut self, of: &[&'a str]) -> &'a str {
        of[self.below(of.len())]
    }
}

const NAMES: [&str; 4] = ["a", "b", "c", "state"];

fn expression(random: &mut Random, depth: usize) -> String {
    let mut inner = || expression(random, depth.saturating_sub(1));
    if depth == 0 {
        let leaves =
            ["a", "b", "c", "state.n", "command.data", "1", "0.1", "\"x\"", "null", "[]", "(-7)"];
        return random.pick(&leaves).to_string();
    }
    let (one, two) = (inner(), inner());
    match random.below(14) {
        0 => format!("({one} {} {two})", random.pick(&["+", "-", "*", "/", "%", "**", "|", "<<"])),
        1 => format!("({one} {} {two})", random.pick(&["<", "===", "==", "&&", "||", "??"])),
        2 => format!("[{one}, ...[{two}].flat()]"),
        3 => format!("{{ b: {one}, a: {two}, 2: 1, 1: 2 }}"),
        4 => format!("String({one}).split(\"\").sort().join({:?})", random.pick(&["", "-"])),
        5 => format!("JSON.stringify([{one}, {two}])"),
        6 => format!("[{one}, {two}, 3].map((x, i) => [x, i]).reverse()"),
        7 => format!("((x) => {{ n += 1; return [n, x]; }})({one})"),
        8 => format!("(memo.set({one}, {two}), memo.size)"),
        9 => format!("String({one}).replace(re, (m) => m + n)"),
        10 => format!("Object.entries({{ ...({one}), k: {two} }})"),
        11 => {
            format!("Math.{}({one}, {two})", random.pick(&["max", "min", "round", "sqrt", "imul"]))
        }
        12 => format!("[...gen({one})].length"),
        _ => format!("(typeof {one} + Number({two}).toString({}))", 2 + random.below(30)),
    }
}

fn statement(random: &mut Random) -> String {
    let name = random.pick(&NAMES[..3]);
    let value = expression(random, 3);
    match random.below(6) {
        0 => format!("for (let i = 0; i < {}; i++) {{ {name} = {value}; }}", random.below(50)),
        1 => format!("if ({value}) {name} = {}; else n--;", expression(random, 2)),
        2 => format!("try {{ {name} = {value}; }} catch (e) {{ {name} = e.name + e.message; }}"),
        3 => format!("if ({value} === {}) throw new Rejection({name});", expression(random, 1)),
        4 => format!("{name} = ((f) => f(f, 30))((f, i) => (i > 0 ? f(f, i - 1) : {value}));"),
        _ => format!("{name} = {value};"),
    }
}

/// Ten programs in one behaviour; the command's data says which.
fn programs(random: &mut Random) -> String {
    let mut top = "let n = 0; const memo = new Map(); const re = /[a-m0-4]/g;\n\
                   function* gen(x) { for (const c of String(x)) yield c; }\n"
        .to_string();
    for number in 0..10 {
        let body: Vec<String> = (0..1 + random.below(6)).map(|_| statement(random)).collect();
        top.push_str(&format!(
            "function p{number}(state, command) {{\nlet a = 1, b = \"b\", c = [3];\n{}\n\
             return {{ events: [{{ type: \"e\", data: [a, b] }}], \
             reply: [a, b, c, n, memo.size, re.lastIndex] }};\n}}\n",
            body.join("\n")
        ));
    }
    let decide = "return [p0, p1, p2, p3, p4, p5, p6, p7, p8, p9][command.data](state, command);";
    around(&top, decide)
}

#[test]
fn a_thousand_random_programs_give_equal_results_in_two_engines() {
    let mut random = Random(7);
    // A small budget: loops in loops are to be refused soon.
    let limits = Limits { ticks: 1, memory: 1 << 20, ..Limits::default() };
    let (mut decided, mut other) = (0, 0);
    for _ in 0..100 {
        let text = programs(&mut random);
        let mut engines = [Engine::new(limits), Engine::new(limits)];
        let hash = engines.each_mut().map(|engine| engine.add(&text).unwrap())[0];
        let mut run = |engine: usize, number: usize| {
            let behaviour = engines[engine].find(&hash).unwrap();
            behaviour.decide(&"{\"n\":1}".into(), &command(&number.to_string()))
        };
        let forward: Vec<_> = (0..10).map(|number| run(0, number)).collect();
        for number in (0..10).rev().chain(0..3) {
            assert_eq!(run(1, number), forward[number], "program {number} of\n{text}");
        }
        let good = forward.iter().filter(|result| result.is_ok()).count();
        (decided, other) = (decided + good, other + 10 - good);
    }
    assert!(decided > 300 && other > 20, "dull programs: {decided} {other}");
}
