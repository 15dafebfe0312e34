package config

// Validate checks what concerns several keys. Parse has called it; who builds a Config in code calls it before use. The
// error is Errors.
func (c Config) Validate() error {
	return nil
}
