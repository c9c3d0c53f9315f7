package relay

import (
	"context"
	"crypto/rand"
	"log/slog"
)

// Private serves an archive on loopback to whoever use tells its address and its password, until use returns. What goes
// wrong with the relay itself, its replica notices.
func Private(ctx context.Context, a Archive, log *slog.Logger, use func(ctx context.Context, address, password string) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	password := rand.Text()
	l, err := Listen("127.0.0.1:0", Options{Archive: a, Login: Login{Password: password}, Logger: log})
	if err != nil {
		return err
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = l.Run(ctx)
	}()
	err = use(ctx, l.Addr(), password)
	cancel()
	<-ended
	return err
}
