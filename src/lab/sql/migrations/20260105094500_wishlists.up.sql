-- A new table, and an index for the page that lists a customer's orders.
CREATE TABLE wishlists (
    customer_id bigint NOT NULL REFERENCES customers ON DELETE CASCADE,
    product_id bigint NOT NULL REFERENCES products,
    wished_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (customer_id, product_id)
);

CREATE INDEX orders_by_customer ON orders (customer_id, placed_at DESC);
