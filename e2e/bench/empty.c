/* The floor: what starting and ending any static process costs here. */
int main(void)
{
    return 0;
}
