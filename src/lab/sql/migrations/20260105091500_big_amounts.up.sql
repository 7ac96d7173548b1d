-- 21 million are not enough for every order. Rewrites both tables.
ALTER TABLE orders ALTER COLUMN total_cents TYPE bigint;
ALTER TABLE payments ALTER COLUMN amount_cents TYPE bigint;
