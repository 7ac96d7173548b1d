-- What is quicker to make once the rows are there, and what looks at them.
ALTER TABLE addresses ADD FOREIGN KEY (customer_id) REFERENCES customers ON DELETE CASCADE;
ALTER TABLE categories ADD FOREIGN KEY (parent_id) REFERENCES categories;
ALTER TABLE products ADD FOREIGN KEY (category_id) REFERENCES categories;
ALTER TABLE warehouse.stock ADD FOREIGN KEY (site_id) REFERENCES warehouse.sites, ADD FOREIGN KEY (product_id) REFERENCES products;
ALTER TABLE orders ADD FOREIGN KEY (customer_id) REFERENCES customers;
ALTER TABLE order_items ADD FOREIGN KEY (order_id) REFERENCES orders ON DELETE CASCADE, ADD FOREIGN KEY (product_id) REFERENCES products;
ALTER TABLE payments ADD FOREIGN KEY (order_id) REFERENCES orders;
ALTER TABLE order_events ADD FOREIGN KEY (order_id) REFERENCES orders ON DELETE CASCADE;
ALTER TABLE reviews ADD FOREIGN KEY (product_id) REFERENCES products, ADD FOREIGN KEY (customer_id) REFERENCES customers;
ALTER TABLE cart_items ADD FOREIGN KEY (product_id) REFERENCES products;
ALTER TABLE support_tickets ADD FOREIGN KEY (customer_id) REFERENCES customers;

CREATE INDEX ON addresses (customer_id);
CREATE INDEX ON order_items (product_id);
CREATE INDEX ON payments (order_id);
CREATE INDEX ON products USING gin (attributes);
CREATE INDEX customers_lower_email ON customers (lower(email));
CREATE INDEX open_tickets ON support_tickets (customer_id) WHERE NOT closed;

CREATE TRIGGER touch BEFORE UPDATE ON orders FOR EACH ROW EXECUTE FUNCTION touch();

CREATE VIEW open_orders AS SELECT id, customer_id, status, placed_at FROM orders WHERE status IN ('new', 'paid', 'packed');

CREATE MATERIALIZED VIEW product_sales AS
    SELECT product_id, sum(quantity) AS sold, sum(quantity * price) AS turnover FROM order_items GROUP BY product_id;
CREATE UNIQUE INDEX ON product_sales (product_id);

GRANT USAGE ON SCHEMA public, warehouse TO shop_app;
GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public, warehouse TO shop_app;
GRANT USAGE ON ALL SEQUENCES IN SCHEMA public, warehouse TO shop_app;
ALTER DEFAULT PRIVILEGES IN SCHEMA public, warehouse GRANT SELECT, INSERT, UPDATE, DELETE ON TABLES TO shop_app;
ALTER DEFAULT PRIVILEGES IN SCHEMA public, warehouse GRANT USAGE ON SEQUENCES TO shop_app;
