//! What an application does in one request: a row in the ledger, and beside it something of a shop's daily work.
//!
//! **Invariant:** every request is right before and after the migration, never fails by itself, and never waits for another
//! client for longer than that one's transaction: each client changes rows of its own where it can.

use crate::word::quote_literal;

/// How many rows there are to work with.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sizes {
    pub(super) customers: i64,
    pub(super) products: i64,
    pub(super) orders: i64,
}

impl Sizes {
    /// Gives the three numbers in one row.
    pub(super) const SQL: &str =
        "SELECT (SELECT count(*) FROM customers), (SELECT count(*) FROM products), (SELECT count(*) FROM orders)";
}

/// Which request: the `seq`th of a client that is number `turn` of `turns`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Request {
    pub(super) client: i32,
    pub(super) seq: i64,
    pub(super) turn: i64,
    pub(super) turns: i64,
    pub(super) sizes: Sizes,
}

impl Request {
    /// The statements, to be run in one transaction.
    pub(super) fn statements(&self) -> [String; 2] {
        let Request { client, seq, .. } = *self;
        let payload = quote_literal(&format!("request {seq} of {client} {}", "x".repeat(usize::try_from(seq % 60).unwrap_or(0))));
        [format!("INSERT INTO ledger (client, seq, payload) VALUES ({client}, {seq}, {payload})"), self.work()]
    }

    /// Whether the client sends statement by statement, with BEGIN and COMMIT, or all in one message.
    pub(super) fn is_step_by_step(&self) -> bool {
        self.seq % 4 == 0
    }

    fn work(&self) -> String {
        let Request { client, seq, sizes, .. } = *self;
        let product = 1 + self.scattered() % sizes.products;
        let other_product = 1 + (product + 7) % sizes.products;
        match seq % 11 {
            0 | 1 => {
                let customer = 1 + self.scattered() % sizes.customers;
                format!(
                    "WITH placed AS (INSERT INTO orders (customer_id, total_cents, note) \
                     VALUES ({customer}, {}, 'by client {client}') RETURNING id) \
                     INSERT INTO order_items SELECT id, 1, {product}, 2, 9.99 FROM placed \
                     UNION ALL SELECT id, 2, {other_product}, 1, 0.01 FROM placed",
                    100 + seq % 10_000
                )
            }
            2 | 3 => {
                let order = self.own(sizes.orders);
                format!("UPDATE orders SET status = 'paid', total_cents = total_cents + 1 WHERE id = {order}")
            }
            4 => format!("UPDATE warehouse.stock SET quantity = quantity - 1 WHERE site_id = 1 AND product_id = {product}"),
            5 => format!(
                "INSERT INTO order_events (at, order_id, kind, detail) VALUES \
                 (timestamptz '2024-06-01 00:00+00' + {} * interval '1 day', {}, 'seen', '{{\"client\": {client}}}')",
                seq % 1500,
                self.own(sizes.orders)
            ),
            6 | 7 => format!(
                "INSERT INTO cart_items (cart_id, product_id, quantity) VALUES ({client}, {product}, 1) \
                 ON CONFLICT (cart_id, product_id) DO UPDATE SET quantity = cart_items.quantity + 1"
            ),
            8 => format!("DELETE FROM cart_items WHERE cart_id = {client}"),
            9 => format!(
                "UPDATE customers SET name = name || '', preferences = preferences || '{{\"seen\": {seq}}}' WHERE id = {}",
                self.own(sizes.customers)
            ),
            _ => format!("SELECT open_ticket({}, 'ticket {seq} of client {client}')", self.own(sizes.customers)),
        }
    }

    /// A number that looks random, the same for the same request.
    fn scattered(&self) -> i64 {
        let mixed = (self.seq + self.turn * 7919).wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (mixed >> 33) & 0x3fff_ffff
    }

    /// The key of one of `count` rows, one that no other client of the same ledger picks.
    fn own(&self, count: i64) -> i64 {
        let share = (count / self.turns).max(1);
        (1 + self.turn * share + self.scattered() % share).min(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_client_changes_rows_of_its_own() {
        let sizes = Sizes { customers: 100, products: 50, orders: 1000 };
        for turn in 0..8 {
            for seq in 0..500 {
                let request = Request { client: 1, seq, turn, turns: 8, sizes };
                let row = request.own(1000);
                assert!(row > turn * 125 && row <= (turn + 1) * 125, "{row} of {turn}");
            }
        }
    }
}
