// The world of a behaviour: what is not the same everywhere is gone, what is shared is frozen.
// The value of this script is `link`, by which the engine calls what a behaviour exports.
(function () {
  "use strict";
  const { parse, stringify } = JSON;
  const { defineProperty, freeze, getOwnPropertyDescriptor, getPrototypeOf } = Object;
  const { ownKeys } = Reflect;

  class Rejection extends Error {
    constructor(reason) {
      super(String(reason));
    }
  }
  defineProperty(Rejection.prototype, "name", { value: "Rejection", configurable: true });
  defineProperty(globalThis, "Rejection", { value: Rejection, configurable: true });

  // Code is not made at run time: nothing outlives a call that way.
  const refuse = function Function() {
    throw new TypeError("code cannot be made at run time");
  };
  refuse.prototype = Function.prototype;
  const makers = [function () {}, function* () {}, async function () {}, async function* () {}];
  for (const made of makers) {
    defineProperty(getPrototypeOf(made), "constructor", { value: refuse });
  }
  defineProperty(globalThis, "Function", { value: refuse });

  // Clocks, chance, collectors, jobs; and mathematics that every platform rounds its own way.
  const gone = ["eval", "Date", "performance", "Promise", "queueMicrotask", "WeakRef", "Atomics",
    "FinalizationRegistry", "SharedArrayBuffer", "DisposableStack", "AsyncDisposableStack"];
  for (const name of gone) delete globalThis[name];
  const rounded = ["sin", "cos", "tan", "asin", "acos", "atan", "atan2", "sinh", "cosh", "tanh",
    "asinh", "acosh", "atanh", "exp", "expm1", "log", "log1p", "log2", "log10", "cbrt", "hypot"];
  for (const name of ["random", ...rounded]) delete Math[name];
  for (const name of ["captureStackTrace", "prepareStackTrace", "stackTraceLimit"]) {
    delete Error[name];
  }
  delete Object.prototype.__proto__;

  // What the engine itself hands out without a name.
  const hidden = [
    [][Symbol.iterator](), ""[Symbol.iterator](), new Map()[Symbol.iterator](),
    new Set()[Symbol.iterator](), "".matchAll(/x/g), (function* () {})(), ...makers,
    Iterator.from({ next() {} }), [].values().map(String),
  ].map(getPrototypeOf);

  const shared = new Set();
  const open = [globalThis, ...hidden];
  while (open.length > 0) {
    const value = open.pop();
    const object = (typeof value === "object" && value !== null) || typeof value === "function";
    if (!object || shared.has(value)) continue;
    shared.add(value);
    open.push(getPrototypeOf(value));
    for (const key of ownKeys(value)) {
      const { value: held, get, set } = getOwnPropertyDescriptor(value, key);
      open.push(held, get, set);
    }
  }

  // A frozen property of a prototype cannot be assigned on what inherits it; `this.name = ...` of
  // an error, or an item with the name "constructor", must work all the same.
  const natives = ownKeys(globalThis).map((name) => globalThis[name]);
  const errors = natives.filter((f) => f === Error || getPrototypeOf(f ?? 0) === Error);
  for (const prototype of [Object.prototype, ...errors.map((error) => error.prototype)]) {
    for (const key of ownKeys(prototype)) {
      const { value, configurable, get, set } = getOwnPropertyDescriptor(prototype, key);
      if (!configurable || get || set) continue;
      const accessor = {
        get() {
          return value;
        },
        set(next) {
          if (this === prototype) throw new TypeError("what is shared is frozen");
          defineProperty(this, key, { value: next, writable: true, enumerable: true, configurable: true });
        },
      };
      shared.add(accessor.get).add(accessor.set);
      defineProperty(prototype, key, { ...accessor, enumerable: false, configurable: true });
    }
  }
  shared.forEach(freeze);

  const text = (value, what) => {
    const json = stringify(value);
    if (json === undefined) throw new TypeError(what + " is not a JSON value");
    return json;
  };

  // `make` runs the behaviour's own top level: nothing of it outlives a call.
  return (make) => ({
    kinds() {
      const made = make();
      return stringify(ownKeys(made).map((key) => [key, typeof made[key]]));
    },
    constant(name) {
      return text(make()[name], "`" + name + "`");
    },
    decide(state, type, data) {
      const { decide } = make();
      let decided;
      try {
        decided = decide(parse(state), { type, data: parse(data) });
      } catch (thrown) {
        if (thrown instanceof Rejection) return "!" + thrown.message;
        throw thrown;
      }
      return text(decided, "what `decide` returned");
    },
    evolve(state, type, data) {
      const { evolve } = make();
      return text(evolve(parse(state), { type, data: parse(data) }), "what `evolve` returned");
    },
  });
})();
