// A shopping cart: items by their article, until it is checked out.

const MOST = 100;

function count(cart, article) {
  return Object.hasOwn(cart.items, article) ? cart.items[article] : 0;
}

export const initial = { items: {}, checkedOut: false };

export function decide(cart, command) {
  if (cart.checkedOut) throw new Rejection("the cart is checked out");
  switch (command.type) {
    case "add-item": {
      const { article, quantity = 1 } = command.data;
      if (typeof article !== "string" || article === "") throw new Rejection("which article?");
      if (!Number.isInteger(quantity) || quantity < 1) throw new Rejection("how many?");
      const total = count(cart, article) + quantity;
      if (total > MOST) throw new Rejection(`at most ${MOST} of one article`);
      return { events: [{ type: "item-added", data: { article, quantity } }], reply: { total } };
    }
    case "remove-item": {
      const { article } = command.data;
      if (count(cart, article) === 0) throw new Rejection("it is not in the cart");
      return { events: [{ type: "item-removed", data: { article } }] };
    }
    case "check-out":
      if (Object.keys(cart.items).length === 0) throw new Rejection("the cart is empty");
      return { events: [{ type: "checked-out", data: {} }], reply: cart.items };
    default:
      throw new Rejection(`no such command: ${command.type}`);
  }
}

export function evolve(cart, event) {
  const { article, quantity } = event.data;
  switch (event.type) {
    case "item-added":
      cart.items[article] = count(cart, article) + quantity;
      return cart;
    case "item-removed":
      delete cart.items[article];
      return cart;
    case "checked-out":
      return { ...cart, checkedOut: true };
    default:
      return cart;
  }
}

export const examples = [
  {
    given: [{ type: "item-added", data: { article: "pen", quantity: 2 } }],
    when: { type: "add-item", data: { article: "pen" } },
    then: { events: [{ type: "item-added", data: { article: "pen", quantity: 1 } }], reply: { total: 3 } },
  },
  { given: [], when: { type: "check-out" }, then: { rejected: "the cart is empty" } },
];
