ALTER TABLE payments ALTER COLUMN amount_cents TYPE integer;
ALTER TABLE orders ALTER COLUMN total_cents TYPE integer;
