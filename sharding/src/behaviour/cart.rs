//! The shopping cart of `cart.js`, in Rust: the sample for who embeds these crates.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::native::{Decided, Pure, Rejection};

/// Most of one article.
const MOST: u64 = 100;

/// The behaviour.
pub struct Cart;

/// The state of a cart.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct State {
    items: BTreeMap<String, u64>,
    checked_out: bool,
}

fn rejected<T>(reason: impl Into<String>) -> Result<T, Rejection> {
    Err(Rejection(reason.into()))
}

impl State {
    fn count(&self, article: &str) -> u64 {
        self.items.get(article).copied().unwrap_or(0)
    }
}

impl Pure for Cart {
    type State = State;

    fn initial(&self) -> State {
        State::default()
    }

    fn decide(&self, cart: &State, kind: &str, data: &Value) -> Result<Decided, Rejection> {
        if cart.checked_out {
            return rejected("the cart is checked out");
        }
        match kind {
            "add-item" => add(cart, data),
            "remove-item" => {
                let article = data["article"].as_str().unwrap_or_default();
                if cart.count(article) == 0 {
                    return rejected("it is not in the cart");
                }
                Ok((vec![("item-removed", json!({ "article": article }))], Value::Null))
            }
            "check-out" if cart.items.is_empty() => rejected("the cart is empty"),
            "check-out" => Ok((vec![("checked-out", json!({}))], json!(cart.items))),
            other => rejected(format!("no such command: {other}")),
        }
    }

    fn evolve(&self, mut cart: State, kind: &str, data: &Value) -> State {
        let article = data["article"].as_str().unwrap_or_default();
        match kind {
            "item-added" => {
                let total = cart.count(article) + data["quantity"].as_u64().unwrap_or(0);
                cart.items.insert(article.to_string(), total);
            }
            "item-removed" => {
                cart.items.remove(article);
            }
            "checked-out" => cart.checked_out = true,
            _ => {}
        }
        cart
    }
}

fn add(cart: &State, data: &Value) -> Result<Decided, Rejection> {
    let Some(article) = data["article"].as_str().filter(|article| !article.is_empty()) else {
        return rejected("which article?");
    };
    let quantity = match data.get("quantity") {
        None => Some(1.0),
        Some(quantity) => quantity.as_f64().filter(|n| n.fract() == 0.0 && *n >= 1.0),
    };
    let Some(quantity) = quantity.map(|quantity| quantity as u64) else {
        return rejected("how many?");
    };
    let total = cart.count(article).saturating_add(quantity);
    if total > MOST {
        return rejected(format!("at most {MOST} of one article"));
    }
    let event = json!({ "article": article, "quantity": quantity });
    Ok((vec![("item-added", event)], json!({ "total": total })))
}
